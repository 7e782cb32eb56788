"""S3 in depth, asked with boto3: what s3probe.py leaves out. Every reply is compared with botocore's model (validate.py).

usage: s3_operations.py ENDPOINT BUCKET OWNER ROLE EXPIRED
       OWNER is ACCESS:SECRET, ROLE and EXPIRED are ACCESS:SECRET:TOKEN, the latter no longer valid
"""

import base64
import datetime
import hashlib
import sys
import unittest

from s3_case import BUCKET, S3, WATCHING, Case
from s3_multipart import Multipart  # noqa: F401, which unittest finds here
from s3_signatures import Signatures  # noqa: F401

HOUR = datetime.timedelta(hours=1)


class Buckets(Case):
    def test_life_of_a_bucket(self):
        S3.create_bucket(Bucket="another")
        self.fails(409, "BucketAlreadyOwnedByYou", S3.create_bucket, Bucket="another")
        self.assertEqual(S3.get_bucket_location(Bucket="another")["LocationConstraint"], "local-1")
        self.assertEqual(S3.head_bucket(Bucket="another")["BucketRegion"], "local-1")
        self.assertLessEqual({"another", BUCKET}, {one["Name"] for one in S3.list_buckets()["Buckets"]})
        self.assertEqual([one["Name"] for one in S3.list_buckets(Prefix="anoth")["Buckets"]], ["another"])
        S3.put_object(Bucket="another", Key="k", Body=b"1")
        self.fails(409, "BucketNotEmpty", S3.delete_bucket, Bucket="another")
        S3.copy_object(Bucket=BUCKET, Key="Buckets/k", CopySource={"Bucket": "another", "Key": "k"})
        S3.delete_object(Bucket="another", Key="k")
        S3.delete_bucket(Bucket="another")
        self.assertEqual(self.body("Buckets/k"), b"1", "the copy outlives its source's bucket")
        self.fails(404, "404", S3.head_bucket, Bucket="another")
        self.fails(404, "NoSuchBucket", S3.delete_bucket, Bucket="another")
        self.fails(404, "NoSuchBucket", S3.put_object, Bucket="another", Key="k", Body=b"1")
        self.fails(404, "NoSuchBucket", S3.create_multipart_upload, Bucket="another", Key="k")

    def test_what_does_not_exist_here_says_so(self):
        self.fails(501, "NotImplemented", S3.get_bucket_lifecycle_configuration, Bucket=BUCKET)
        self.fails(501, "NotImplemented", self.put, key="n", Tagging="a=b")
        self.fails(501, "NotImplemented", self.put, key="n", WriteOffsetBytes=1)
        self.fails(501, "NotImplemented", self.put, key="n", SSECustomerAlgorithm="AES256", SSECustomerKey="0" * 32)
        self.fails(501, "NotImplemented", S3.rename_object, Bucket=BUCKET, Key="n", RenameSource="o")
        self.fails(404, "NoSuchKey", self.get, key="n")


class Objects(Case):
    KEPT = dict(CacheControl="no-cache", ContentDisposition="inline", ContentEncoding="gzip", ContentLanguage="de",
                ContentType="text/plain", Metadata={"mode": "33188", "a-b": "c d"}, StorageClass="STANDARD_IA",
                WebsiteRedirectLocation="/other")

    def test_headers_come_back(self):
        self.put("Objects/h", b"body", Expires=datetime.datetime(2030, 1, 2, tzinfo=datetime.timezone.utc), **self.KEPT)
        for reply in (self.get("Objects/h"), self.head("Objects/h")):
            self.assertEqual({name: reply[name] for name in self.KEPT}, self.KEPT)
            self.assertEqual(reply["ExpiresString"], "Wed, 02 Jan 2030 00:00:00 GMT")
            self.assertEqual((reply["ContentLength"], reply["AcceptRanges"]), (4, "bytes"))
        asked = self.get("Objects/h", ResponseContentType="a/b", ResponseCacheControl="max-age=1")
        self.assertEqual((asked["ContentType"], asked["CacheControl"]), ("a/b", "max-age=1"))
        self.put("Objects/h", b"body")
        self.assertEqual(self.head("Objects/h")["ContentType"], "binary/octet-stream")
        self.fails(400, "MetadataTooLarge", self.put, key="Objects/m", Metadata={"a": "b" * 2048})

    def test_encryption_is_echoed(self):
        wanted = {"ServerSideEncryption": "AES256"}
        replies = [self.put("Objects/e", **wanted), self.get("Objects/e"), self.head("Objects/e")]
        replies.append(S3.copy_object(Bucket=BUCKET, Key="Objects/e2", CopySource=f"{BUCKET}/Objects/e", **wanted))
        replies.append(S3.create_multipart_upload(Bucket=BUCKET, Key="Objects/e3", **wanted))
        upload = {"Bucket": BUCKET, "Key": "Objects/e3", "UploadId": replies[-1]["UploadId"]}
        replies.append(S3.upload_part(PartNumber=1, Body=b"x", **upload))
        parts = {"Parts": [{"PartNumber": 1, "ETag": replies[-1]["ETag"]}]}
        replies.append(S3.complete_multipart_upload(MultipartUpload=parts, **upload))
        self.assertEqual([reply.get("ServerSideEncryption") for reply in replies], ["AES256"] * len(replies))

    def test_reads_have_conditions(self):
        put = self.put("Objects/c", b"body")
        tag, modified = put["ETag"], self.head("Objects/c")["LastModified"]
        for call in (self.get, self.head):
            self.assertEqual(call("Objects/c", IfMatch=tag)["ETag"], tag)
            self.assertEqual(call("Objects/c", IfNoneMatch='"0"')["ETag"], tag)
            self.assertEqual(call("Objects/c", IfModifiedSince=modified - HOUR)["ETag"], tag)
            self.assertEqual(call("Objects/c", IfUnmodifiedSince=modified)["ETag"], tag)
            self.fails(304, "304", call, key="Objects/c", IfNoneMatch=tag)
            self.fails(304, "304", call, key="Objects/c", IfModifiedSince=modified)
            failed = "PreconditionFailed" if call == self.get else "412"
            self.fails(412, failed, call, key="Objects/c", IfMatch='"0"')
            self.fails(412, failed, call, key="Objects/c", IfUnmodifiedSince=modified - HOUR)

    def test_writes_have_conditions(self):
        first = self.put("Objects/w", b"1", IfNoneMatch="*")["ETag"]
        self.fails(412, "PreconditionFailed", self.put, key="Objects/w", body=b"2", IfNoneMatch="*")
        second = self.put("Objects/w", b"2", IfMatch=first)["ETag"]
        self.fails(412, "PreconditionFailed", self.put, key="Objects/w", body=b"3", IfMatch=first)
        self.fails(404, "NoSuchKey", self.put, key="Objects/none", body=b"3", IfMatch=first)
        self.fails(501, "NotImplemented", self.put, key="Objects/w", body=b"3", IfNoneMatch=second)
        self.assertEqual(self.body("Objects/w"), b"2")

    def test_deletes_have_conditions(self):
        tag = self.put("Objects/d", b"1")["ETag"]
        delete = lambda key, **more: S3.delete_object(Bucket=BUCKET, Key=key, **more)
        self.fails(412, "PreconditionFailed", delete, key="Objects/d", IfMatch='"0"')
        self.assertEqual(self.body("Objects/d"), b"1")
        delete("Objects/d", IfMatch=tag)
        self.fails(404, "NoSuchKey", delete, key="Objects/d", IfMatch=tag)
        delete("Objects/d")
        self.put("Objects/d")
        delete("Objects/d", IfMatch="*")
        self.fails(404, "404", self.head, key="Objects/d")

    def test_many_are_deleted_at_once(self):
        tags = [self.put(f"Objects/m{n}", b"%d" % n)["ETag"] for n in range(4)]
        objects = [{"Key": "Objects/m0", "ETag": tags[0]}, {"Key": "Objects/m1", "ETag": tags[0]},
                   {"Key": "Objects/m2"}, {"Key": "Objects/absent"}, {"Key": "Objects/m2"}]
        reply = S3.delete_objects(Bucket=BUCKET, Delete={"Objects": objects})
        self.assertEqual([(one["Key"], one["Code"]) for one in reply["Errors"]], [("Objects/m1", "PreconditionFailed")])
        deleted = [one["Key"] for one in reply["Deleted"]]
        self.assertEqual(deleted, ["Objects/m0", "Objects/m2", "Objects/absent", "Objects/m2"])
        self.assertEqual(self.keys(Prefix="Objects/m"), ["Objects/m1", "Objects/m3"])
        quiet = S3.delete_objects(Bucket=BUCKET, Delete={"Objects": [{"Key": "Objects/m1"}], "Quiet": True})
        self.assertEqual((quiet.get("Deleted"), quiet.get("Errors")), (None, None))
        too_many = {"Objects": [{"Key": f"k{n}"} for n in range(1001)]}
        self.fails(400, "MalformedXML", S3.delete_objects, Bucket=BUCKET, Delete=too_many)

    def test_checksums_are_kept_and_checked(self):
        for name in ("CRC32", "CRC32C", "CRC64NVME", "SHA1", "SHA256"):
            put = self.put("Objects/s", b"sum", ChecksumAlgorithm=name)
            got = self.get("Objects/s", ChecksumMode="ENABLED")
            self.assertEqual((got[f"Checksum{name}"], got["ChecksumType"]), (put[f"Checksum{name}"], "FULL_OBJECT"))
            self.assertEqual(S3.list_objects_v2(Bucket=BUCKET, Prefix="Objects/s")["Contents"][0]["ChecksumAlgorithm"],
                             [name])
            self.assertNotIn(f"Checksum{name}", self.get("Objects/s", ChecksumMode="ENABLED", Range="bytes=0-1"))
        wrong = base64.b64encode(hashlib.sha256(b"other").digest()).decode()
        self.fails(400, "BadDigest", self.put, key="Objects/s", body=b"new", ChecksumSHA256=wrong)
        self.assertEqual(self.body("Objects/s"), b"sum")

    def test_attributes(self):
        tag = self.put("Objects/a", b"four", ChecksumAlgorithm="SHA256")["ETag"]
        names = ["ETag", "ObjectSize", "StorageClass", "Checksum"]
        reply = S3.get_object_attributes(Bucket=BUCKET, Key="Objects/a", ObjectAttributes=names)
        self.assertEqual((reply["ETag"], reply["ObjectSize"], reply["StorageClass"]), (tag, 4, "STANDARD"))
        self.assertEqual(reply["Checksum"]["ChecksumSHA256"],
                         base64.b64encode(hashlib.sha256(b"four").digest()).decode())


class Copies(Case):
    def copy(self, key, source, **more):
        return S3.copy_object(Bucket=BUCKET, Key=key, CopySource={"Bucket": BUCKET, "Key": source}, **more)

    def test_sources_have_conditions(self):
        tag = self.put("Copies/s", b"body", Metadata={"a": "1"})["ETag"]
        modified = self.head("Copies/s")["LastModified"]
        copied = self.copy("Copies/t", "Copies/s", CopySourceIfMatch=tag, CopySourceIfModifiedSince=modified - HOUR)
        self.assertEqual(copied["CopyObjectResult"]["ETag"], tag)
        for condition in (dict(CopySourceIfMatch='"0"'), dict(CopySourceIfNoneMatch=tag),
                          dict(CopySourceIfModifiedSince=modified), dict(CopySourceIfUnmodifiedSince=modified - HOUR)):
            self.fails(412, "PreconditionFailed", self.copy, key="Copies/u", source="Copies/s", **condition)
        self.fails(404, "404", self.head, key="Copies/u")
        self.fails(404, "NoSuchKey", self.copy, key="Copies/u", source="Copies/none")

    def test_destinations_have_conditions(self):
        tag = self.put("Copies/s", b"body")["ETag"]
        self.copy("Copies/new", "Copies/s", IfNoneMatch="*")
        self.fails(412, "PreconditionFailed", self.copy, key="Copies/new", source="Copies/s", IfNoneMatch="*")
        self.copy("Copies/new", "Copies/s", IfMatch=tag)
        self.fails(412, "PreconditionFailed", self.copy, key="Copies/new", source="Copies/s", IfMatch='"0"')
        self.fails(404, "NoSuchKey", self.copy, key="Copies/absent", source="Copies/s", IfMatch=tag)

    def test_any_key_can_be_copied_from(self):
        for n, key in enumerate(("a b", "a+b%20", "ü/日本", "a//b", "dir/", "%2F", "q?x=1&y#z", "a&b<c>")):
            self.put(f"Copies/{key}", key.encode())
            self.copy(f"Copies/copy{n}", f"Copies/{key}")
            self.assertEqual(self.body(f"Copies/copy{n}"), key.encode())

    def test_a_copy_keeps_headers_or_replaces_them(self):
        self.put("Copies/h", b"1", ContentType="a/b", Metadata={"a": "1"})
        self.copy("Copies/i", "Copies/h")
        self.assertEqual((self.head("Copies/i")["ContentType"], self.head("Copies/i")["Metadata"]), ("a/b", {"a": "1"}))
        self.copy("Copies/h", "Copies/h", MetadataDirective="REPLACE", Metadata={"b": "2"})
        self.assertEqual(self.head("Copies/h")["Metadata"], {"b": "2"})
        self.assertEqual(self.head("Copies/h")["ContentType"], "binary/octet-stream")
        self.fails(400, "InvalidRequest", self.copy, key="Copies/h", source="Copies/h")


class Listings(Case):
    KEYS = ["a", "a/", "a//b", "a/b", "b c", "d%", "e\u0001", "é"]

    @classmethod
    def setUpClass(cls):
        for key in cls.KEYS:
            S3.put_object(Bucket=BUCKET, Key=f"Listings/{key}", Body=b"x")

    def test_both_versions_list_every_key_in_byte_order(self):
        whole = [f"Listings/{key}" for key in self.KEYS]
        for operation in ("list_objects", "list_objects_v2"):
            for size in (1, 3, 1000):
                pages = S3.get_paginator(operation).paginate(
                    Bucket=BUCKET, Prefix="Listings/", PaginationConfig={"PageSize": size})
                self.assertEqual([one["Key"] for page in pages for one in page.get("Contents", [])], whole)
                pages = S3.get_paginator(operation).paginate(
                    Bucket=BUCKET, Prefix="Listings/", Delimiter="/", PaginationConfig={"PageSize": size})
                pages = list(pages)
                groups = [one["Prefix"] for page in pages for one in page.get("CommonPrefixes", [])]
                self.assertEqual(groups, ["Listings/a/"], f"{operation} {size}")
                self.assertEqual(len([one for page in pages for one in page.get("Contents", [])]), 5)

    def test_keys_are_encoded_when_asked(self):
        for call in (S3.list_objects, S3.list_objects_v2):
            reply = call(Bucket=BUCKET, Prefix="Listings/", EncodingType="url", Delimiter="%")
            found = [one["Key"] for one in reply["Contents"]]
            self.assertLessEqual({"Listings/b%20c", "Listings/e%01", "Listings/%C3%A9"}, set(found))
            self.assertEqual(([one["Prefix"] for one in reply["CommonPrefixes"]], reply["Delimiter"],
                              reply["EncodingType"]), (["Listings/d%25"], "%25", "url"))
        self.fails(400, "InvalidArgument", S3.list_objects_v2, Bucket=BUCKET, EncodingType="other")

    def test_starts_and_ends_of_pages(self):
        after = lambda key, **more: self.keys(Prefix="Listings/", StartAfter=key, **more)
        self.assertEqual(after("Listings/d"), [f"Listings/{key}" for key in self.KEYS[5:]])
        self.assertEqual(after("Listings/é"), [])
        self.assertEqual(after("A"), [f"Listings/{key}" for key in self.KEYS])
        empty = S3.list_objects_v2(Bucket=BUCKET, MaxKeys=0)
        self.assertEqual((empty["KeyCount"], empty["IsTruncated"], empty["MaxKeys"]), (0, False, 0))
        self.fails(400, "InvalidArgument", S3.list_objects_v2, Bucket=BUCKET, MaxKeys=-1)
        self.fails(400, "InvalidArgument", S3.list_objects_v2, Bucket=BUCKET, ContinuationToken="made up")
        page = S3.list_objects_v2(Bucket=BUCKET, Prefix="Listings/", MaxKeys=2)
        token = page["NextContinuationToken"]
        S3.delete_object(Bucket=BUCKET, Key="Listings/a/")
        rest = S3.list_objects_v2(Bucket=BUCKET, Prefix="Listings/", ContinuationToken=token)
        self.put("Listings/a/")
        self.assertEqual([one["Key"] for one in rest["Contents"]], [f"Listings/{key}" for key in self.KEYS[2:]])

    def test_owners_are_listed_when_asked(self):
        listed = lambda call, **more: call(Bucket=BUCKET, Prefix="Listings/a", **more)["Contents"][0]
        self.assertNotIn("Owner", listed(S3.list_objects_v2))
        self.assertIn("ID", listed(S3.list_objects_v2, FetchOwner=True)["Owner"])
        self.assertIn("ID", listed(S3.list_objects)["Owner"])


class Keys(Case):
    def test_every_legal_key_has_its_own_object(self):
        keys = ["a", "a/b", "a//b", "dir/", "%", "%25", "..x", "x..", " ", "+", "k" * 1019, "ü" * 509 + "k", "\t\n", "A"]
        for key in keys:
            self.put(f"Keys/{key}", key.encode())
        self.assertEqual(self.keys(Prefix="Keys/"), sorted((f"Keys/{key}" for key in keys), key=str.encode))
        for key in keys:
            self.assertEqual(self.body(f"Keys/{key}"), key.encode())
        self.fails(400, "KeyTooLongError", self.put, key="k" * 1025)
        self.fails(400, "KeyTooLongError", self.put, key="ü" * 512 + "k")
        self.fails(400, "KeyTooLongError", S3.create_multipart_upload, Bucket=BUCKET, Key="k" * 1025)
        for key in keys:
            S3.delete_object(Bucket=BUCKET, Key=f"Keys/{key}")
        self.assertEqual(self.keys(Prefix="Keys/"), [])


class ZModels(unittest.TestCase):
    """Last by its name: what all the others got."""

    def test_every_reply_is_as_the_model_has_it(self):
        print(f"\n{WATCHING.report()}")
        self.assertEqual(WATCHING.problems, [])
        self.assertGreater(len(WATCHING.replies), 20)


if __name__ == "__main__":
    unittest.main(argv=sys.argv[:1], verbosity=2)
