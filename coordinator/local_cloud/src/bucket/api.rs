//! The S3 operations that exist here; `s3s` answers all others with 501. Every one is a line: what it does is in the
//! module of its family.

use std::sync::Arc;

use s3s::dto::{
    AbortMultipartUploadInput, AbortMultipartUploadOutput, Bucket, BucketLocationConstraint,
    CompleteMultipartUploadInput, CompleteMultipartUploadOutput, CopyObjectInput, CopyObjectOutput, CreateBucketInput,
    CreateBucketOutput, CreateMultipartUploadInput, CreateMultipartUploadOutput, DeleteBucketInput, DeleteBucketOutput,
    DeleteObjectInput, DeleteObjectOutput, DeleteObjectsInput, DeleteObjectsOutput, GetBucketLocationInput,
    GetBucketLocationOutput, GetObjectAttributesInput, GetObjectAttributesOutput, GetObjectInput, GetObjectOutput,
    HeadBucketInput, HeadBucketOutput, HeadObjectInput, HeadObjectOutput, ListBucketsInput, ListBucketsOutput,
    ListMultipartUploadsInput, ListMultipartUploadsOutput, ListObjectsInput, ListObjectsOutput, ListObjectsV2Input,
    ListObjectsV2Output, ListPartsInput, ListPartsOutput, PutObjectInput, PutObjectOutput, UploadPartCopyInput,
    UploadPartCopyOutput, UploadPartInput, UploadPartOutput,
};
use s3s::{S3, S3Request, S3Response, S3Result, s3_error};

use super::conditions::{now, timestamp};
use super::index::Record;
use super::store::Store;
use super::{REGION, lists, multipart, object};

/// The S3 API over a store.
#[derive(Debug)]
pub(super) struct Api(pub(super) Arc<Store>);

/// Operations that `s3s` hands over, and the functions that do them.
macro_rules! operations {
    ($($name:ident($input:ident) -> $output:ident = |$store:ident, $request:ident| $do:expr;)*) => {
        #[async_trait::async_trait]
        impl S3 for Api {
            $(async fn $name(&self, $request: S3Request<$input>) -> S3Result<S3Response<$output>> {
                let $store = &*self.0;
                Ok(S3Response::new($do?))
            })*

            async fn get_object_attributes(
                &self,
                request: S3Request<GetObjectAttributesInput>,
            ) -> S3Result<S3Response<GetObjectAttributesOutput>> {
                object::attributes(&self.0, &request)
            }
        }
    };
}

operations! {
    create_bucket(CreateBucketInput) -> CreateBucketOutput = |store, request| create_bucket(store, &request.input.bucket);
    delete_bucket(DeleteBucketInput) -> DeleteBucketOutput = |store, request| delete_bucket(store, &request.input.bucket);
    head_bucket(HeadBucketInput) -> HeadBucketOutput = |store, request| head_bucket(store, &request.input.bucket);
    get_bucket_location(GetBucketLocationInput) -> GetBucketLocationOutput =
        |store, request| bucket_location(store, &request.input.bucket);
    list_buckets(ListBucketsInput) -> ListBucketsOutput = |store, request| list_buckets(store, &request.input);

    put_object(PutObjectInput) -> PutObjectOutput = |store, request| object::put(store, request).await;
    get_object(GetObjectInput) -> GetObjectOutput = |store, request| object::get(store, &request);
    head_object(HeadObjectInput) -> HeadObjectOutput = |store, request| object::head(store, &request);
    delete_object(DeleteObjectInput) -> DeleteObjectOutput = |store, request| object::delete(store, &request);
    delete_objects(DeleteObjectsInput) -> DeleteObjectsOutput = |store, request| object::delete_many(store, request);
    copy_object(CopyObjectInput) -> CopyObjectOutput = |store, request| object::copy::copy(store, &request).await;

    list_objects(ListObjectsInput) -> ListObjectsOutput = |store, request| lists::objects_v1(store, &request);
    list_objects_v2(ListObjectsV2Input) -> ListObjectsV2Output = |store, request| lists::objects_v2(store, &request);

    create_multipart_upload(CreateMultipartUploadInput) -> CreateMultipartUploadOutput =
        |store, request| multipart::create(store, &request);
    upload_part(UploadPartInput) -> UploadPartOutput = |store, request| multipart::put_part(store, request).await;
    upload_part_copy(UploadPartCopyInput) -> UploadPartCopyOutput =
        |store, request| object::copy::copy_part(store, &request).await;
    complete_multipart_upload(CompleteMultipartUploadInput) -> CompleteMultipartUploadOutput =
        |store, request| multipart::complete(store, &request);
    abort_multipart_upload(AbortMultipartUploadInput) -> AbortMultipartUploadOutput =
        |store, request| multipart::abort(store, &request);
    list_parts(ListPartsInput) -> ListPartsOutput = |store, request| multipart::list_parts(store, &request);
    list_multipart_uploads(ListMultipartUploadsInput) -> ListMultipartUploadsOutput =
        |store, request| lists::uploads(store, &request);
}

fn create_bucket(store: &Store, name: &str) -> S3Result<CreateBucketOutput> {
    store.commit(|index| {
        if index.buckets.contains_key(name) {
            return Err(s3_error!(BucketAlreadyOwnedByYou, "You already own this bucket."));
        }
        Ok(vec![Record::CreateBucket { bucket: name.to_owned(), created: now() }])
    })?;
    Ok(CreateBucketOutput { location: Some(format!("/{name}")) })
}

fn delete_bucket(store: &Store, name: &str) -> S3Result<DeleteBucketOutput> {
    store.commit(|index| {
        let bucket = index.bucket(name)?;
        if !bucket.objects.is_empty() {
            return Err(s3_error!(BucketNotEmpty, "The bucket you tried to delete is not empty"));
        }
        Ok(vec![Record::DeleteBucket { bucket: name.to_owned() }])
    })?;
    Ok(DeleteBucketOutput::default())
}

fn head_bucket(store: &Store, name: &str) -> S3Result<HeadBucketOutput> {
    store.read(|index| index.bucket(name).map(drop))?;
    Ok(HeadBucketOutput { bucket_region: Some(REGION.to_owned()), ..HeadBucketOutput::default() })
}

fn bucket_location(store: &Store, name: &str) -> S3Result<GetBucketLocationOutput> {
    store.read(|index| index.bucket(name).map(drop))?;
    let location_constraint = Some(BucketLocationConstraint::from_static(REGION));
    Ok(GetBucketLocationOutput { location_constraint })
}

/// All of them on one page.
fn list_buckets(store: &Store, input: &ListBucketsInput) -> S3Result<ListBucketsOutput> {
    let prefix = input.prefix.as_deref().unwrap_or_default();
    let buckets = store.read(|index| {
        let named = index.buckets.iter().filter(|(name, _)| name.starts_with(prefix));
        let listed = |(name, bucket): (&String, &super::index::Bucket)| Bucket {
            bucket_region: Some(REGION.to_owned()),
            creation_date: Some(timestamp(bucket.created)),
            name: Some(name.clone()),
        };
        named.map(listed).collect()
    });
    Ok(ListBucketsOutput { buckets: Some(buckets), owner: Some(lists::owner()), ..ListBucketsOutput::default() })
}
