"""S3 in depth, asked with boto3: what s3probe.py leaves out. Every reply is compared with botocore's model (validate.py).

usage: s3_operations.py ENDPOINT BUCKET OWNER ROLE EXPIRED
       OWNER is ACCESS:SECRET, ROLE and EXPIRED are ACCESS:SECRET:TOKEN, the latter no longer valid
"""

import base64
import datetime
import hashlib
import sys
import unittest
import unittest.mock
import urllib.error
import urllib.request

import boto3
from botocore.auth import S3SigV4Auth, S3SigV4QueryAuth
from botocore.awsrequest import AWSRequest
from botocore.config import Config
from botocore.credentials import Credentials
from botocore.exceptions import ClientError

import validate

PART = 5 << 20
HOUR = datetime.timedelta(hours=1)


def client(key, **config):
    access, secret, *token = key.split(":", 2)
    return boto3.client(
        "s3",
        endpoint_url=ENDPOINT,
        region_name="local-1",
        aws_access_key_id=access,
        aws_secret_access_key=secret,
        aws_session_token=token[0] if token else None,
        config=Config(s3={"addressing_style": "path"}, retries={"total_max_attempts": 1}, **config),
    )


def fetch(method, url, body=None, headers=None):
    """A request by hand: status and body."""
    try:
        request = urllib.request.Request(url, data=body, method=method, headers={"Content-Type": "", **(headers or {})})
        with urllib.request.urlopen(request, timeout=30) as reply:
            return reply.status, reply.read()
    except urllib.error.HTTPError as error:
        return error.code, error.read()


def clock_at(when):
    """What botocore signs meanwhile it signs as at that time."""
    return unittest.mock.patch("botocore.auth.get_current_datetime", lambda: when)


class Case(unittest.TestCase):
    maxDiff = None

    @classmethod
    def setUpClass(cls):
        cls.prefix = f"{cls.__name__}/"

    def put(self, key, body=b"x", **more):
        return S3.put_object(Bucket=BUCKET, Key=key, Body=body, **more)

    def get(self, key, **more):
        return S3.get_object(Bucket=BUCKET, Key=key, **more)

    def head(self, key, **more):
        return S3.head_object(Bucket=BUCKET, Key=key, **more)

    def body(self, key, **more):
        return self.get(key, **more)["Body"].read()

    def fails(self, status, code, call, **arguments):
        with self.assertRaises(ClientError) as caught:
            call(**arguments)
        response = caught.exception.response
        self.assertEqual((response["ResponseMetadata"]["HTTPStatusCode"], response["Error"]["Code"]), (status, code))

    def keys(self, **query):
        return [one["Key"] for one in S3.list_objects_v2(Bucket=BUCKET, **query).get("Contents", [])]


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


class Multipart(Case):
    def begin(self, key, **more):
        upload = S3.create_multipart_upload(Bucket=BUCKET, Key=key, **more)["UploadId"]
        return {"Bucket": BUCKET, "Key": key, "UploadId": upload}

    def part(self, upload, number, body, **more):
        return {"PartNumber": number, "ETag": S3.upload_part(PartNumber=number, Body=body, **upload, **more)["ETag"]}

    def complete(self, upload, parts, **more):
        return S3.complete_multipart_upload(MultipartUpload={"Parts": parts}, **upload, **more)

    def test_parts_are_read_by_number(self):
        bodies = [b"a" * PART, b"b" * PART, b"end"]
        upload = self.begin("Multipart/n", ChecksumAlgorithm="SHA256", Metadata={"m": "1"})
        # Numbers need not be consecutive; the object's parts are.
        parts = [self.part(upload, 3 * n + 2, body, ChecksumAlgorithm="SHA256") for n, body in enumerate(bodies)]
        for part, body in zip(parts, bodies):
            part["ChecksumSHA256"] = base64.b64encode(hashlib.sha256(body).digest()).decode()
        done = self.complete(upload, parts)
        self.assertRegex(done["ETag"], '^"[0-9a-f]{32}-3"$')
        self.assertRegex(done["ChecksumSHA256"], "=-3$")
        for number, body in enumerate(bodies, 1):
            got = self.get("Multipart/n", PartNumber=number)
            self.assertEqual((got["PartsCount"], got["ETag"]), (3, done["ETag"]))
            self.assertEqual(got["Body"].read(), body)
            self.assertEqual(self.head("Multipart/n", PartNumber=number)["ContentLength"], len(body))
        self.fails(416, "InvalidRange", self.get, key="Multipart/n", PartNumber=4)
        self.fails(400, "InvalidRequest", self.get, key="Multipart/n", PartNumber=1, Range="bytes=0-1")
        self.assertEqual(self.body("Multipart/n", Range=f"bytes={2 * PART - 1}-{2 * PART}"), b"be")
        names = ["ObjectParts", "ObjectSize"]
        facts = S3.get_object_attributes(Bucket=BUCKET, Key="Multipart/n", ObjectAttributes=names, MaxParts=2)
        self.assertEqual((facts["ObjectSize"], facts["ObjectParts"]["TotalPartsCount"]), (2 * PART + 3, 3))
        self.assertEqual(([one["Size"] for one in facts["ObjectParts"]["Parts"]], facts["ObjectParts"]["IsTruncated"]),
                         ([PART, PART], True))

    def test_parts_are_copied(self):
        self.put("Multipart/source", b"s" * PART + b"tail")
        upload = self.begin("Multipart/c")
        source = {"CopySource": {"Bucket": BUCKET, "Key": "Multipart/source"}}
        copy = lambda number, **more: S3.upload_part_copy(PartNumber=number, **source, **upload, **more)
        first = copy(1, CopySourceRange=f"bytes=0-{PART - 1}")["CopyPartResult"]["ETag"]
        self.assertEqual(first, f'"{hashlib.md5(b"s" * PART).hexdigest()}"')
        second = copy(2, CopySourceRange=f"bytes={PART}-{PART + 3}", CopySourceIfNoneMatch='"0"')
        self.fails(412, "PreconditionFailed", copy, number=3, CopySourceIfMatch='"0"')
        self.fails(400, "InvalidArgument", copy, number=3, CopySourceRange="bytes=5-")
        self.fails(416, "InvalidRange", copy, number=3, CopySourceRange=f"bytes=0-{PART + 4}")
        S3.delete_object(Bucket=BUCKET, Key="Multipart/source")
        self.complete(upload, [{"PartNumber": 1, "ETag": first},
                               {"PartNumber": 2, "ETag": second["CopyPartResult"]["ETag"]}])
        self.assertEqual(self.body("Multipart/c"), b"s" * PART + b"tail")

    def test_completion_has_conditions(self):
        tag = self.put("Multipart/k", b"before")["ETag"]
        upload = self.begin("Multipart/k")
        parts = [self.part(upload, 1, b"after")]
        self.fails(412, "PreconditionFailed", self.complete, upload=upload, parts=parts, IfNoneMatch="*")
        self.fails(412, "PreconditionFailed", self.complete, upload=upload, parts=parts, IfMatch='"0"')
        self.assertEqual(self.body("Multipart/k"), b"before")
        self.complete(upload, parts, IfMatch=tag)
        self.assertEqual(self.body("Multipart/k"), b"after")
        upload = self.begin("Multipart/absent")
        parts = [self.part(upload, 1, b"1")]
        self.fails(404, "NoSuchKey", self.complete, upload=upload, parts=parts, IfMatch=tag)
        self.complete(upload, parts, IfNoneMatch="*")

    def test_wrong_completions_change_nothing(self):
        upload = self.begin("Multipart/w")
        one, two = self.part(upload, 1, b"1"), self.part(upload, 2, b"2")
        wrong = lambda parts, code, **more: self.fails(400, code, self.complete, upload=upload, parts=parts, **more)
        wrong([one, two], "EntityTooSmall")
        wrong([two, one], "InvalidPartOrder")
        wrong([{**one, "ETag": two["ETag"]}], "InvalidPart")
        wrong([{**one, "PartNumber": 3}], "InvalidPart")
        wrong([one], "InvalidRequest", MpuObjectSize=2)
        self.fails(404, "NoSuchUpload", self.complete, upload={**upload, "Key": "Multipart/other"}, parts=[one])
        self.fails(404, "404", self.head, key="Multipart/w")
        for number in (0, 10001):
            self.fails(400, "InvalidArgument", self.part, upload=upload, number=number, body=b"")
        self.part(upload, 1, b"again")
        wrong([one], "InvalidPart")
        S3.abort_multipart_upload(**upload)
        self.fails(404, "NoSuchUpload", S3.list_parts, **upload)
        self.fails(404, "NoSuchUpload", S3.abort_multipart_upload, **upload)
        self.fails(404, "NoSuchUpload", self.complete, upload=upload, parts=[one])

    def test_uploads_and_parts_are_listed_in_pages(self):
        uploads = [self.begin(f"Multipart/l/{key}") for key in ("a", "a", "b/1", "b/2", "c")]
        pages = S3.get_paginator("list_multipart_uploads")
        found = [(one["Key"], one["UploadId"]) for page in pages.paginate(
            Bucket=BUCKET, Prefix="Multipart/l/", PaginationConfig={"PageSize": 2}) for one in page.get("Uploads", [])]
        self.assertEqual(found, sorted((one["Key"], one["UploadId"]) for one in uploads))
        folded = S3.list_multipart_uploads(Bucket=BUCKET, Prefix="Multipart/l/", Delimiter="/")
        self.assertEqual([one["Prefix"] for one in folded["CommonPrefixes"]], ["Multipart/l/b/"])
        self.assertEqual(len(folded["Uploads"]), 3)
        for number in (1, 2, 3, 10000):
            self.part(uploads[0], number, b"%d" % number)
        pages = S3.get_paginator("list_parts").paginate(PaginationConfig={"PageSize": 3}, **uploads[0])
        found = [(one["PartNumber"], one["Size"]) for page in pages for one in page.get("Parts", [])]
        self.assertEqual(found, [(1, 1), (2, 1), (3, 1), (10000, 5)])
        for upload in uploads:
            S3.abort_multipart_upload(**upload)
        self.assertNotIn("Uploads", S3.list_multipart_uploads(Bucket=BUCKET, Prefix="Multipart/l/"))

    def test_whole_object_checksums(self):
        for name in ("CRC32", "CRC32C", "CRC64NVME"):
            upload = self.begin("Multipart/f", ChecksumAlgorithm=name, ChecksumType="FULL_OBJECT")
            parts = [self.part(upload, number, body, ChecksumAlgorithm=name)
                     for number, body in ((1, b"f" * PART), (2, b"rest"))]
            done = self.complete(upload, parts)
            whole = self.put("Multipart/g", b"f" * PART + b"rest", ChecksumAlgorithm=name)
            self.assertEqual((done[f"Checksum{name}"], done["ChecksumType"]), (whole[f"Checksum{name}"], "FULL_OBJECT"))


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


class Signatures(Case):
    def refused(self, reply, status, code):
        self.assertEqual(reply[0], status, reply)
        self.assertIn(f"<Code>{code}</Code>".encode(), reply[1])

    def test_presigned_requests(self):
        for key in (OWNER, ROLE):
            mine = client(key, signature_version="s3v4")
            url = lambda verb, **more: mine.generate_presigned_url(verb, Params={"Bucket": BUCKET, "Key": "signed", **more})
            self.assertEqual(fetch("PUT", url("put_object"), b"hey")[0], 200)
            self.assertEqual(fetch("GET", url("get_object")), (200, b"hey"))
            self.assertEqual(fetch("GET", url("get_object"), headers={"Range": "bytes=1-1"}), (206, b"e"))
            self.refused(fetch("PUT", url("get_object"), b"other"), 403, "SignatureDoesNotMatch")
            self.refused(fetch("GET", url("get_object").replace("signed", "other")), 403, "SignatureDoesNotMatch")
            longer = url("get_object").replace("X-Amz-Expires=3600", "X-Amz-Expires=7200")
            self.refused(fetch("GET", longer), 403, "SignatureDoesNotMatch")
            self.assertEqual(fetch("DELETE", url("delete_object"))[0], 204)

    def test_presigned_requests_expire(self):
        url = self.signed_url(datetime.datetime.now(datetime.timezone.utc) - datetime.timedelta(seconds=90), 60)
        self.refused(fetch("GET", url), 403, "AccessDenied")
        url = self.signed_url(datetime.datetime.now(datetime.timezone.utc) - datetime.timedelta(seconds=90), 600)
        self.refused(fetch("GET", url), 404, "NoSuchKey")

    def signed_url(self, when, seconds):
        """As if presigned at another time."""
        request = AWSRequest("GET", f"{ENDPOINT}/{BUCKET}/not-there")
        with clock_at(when):
            S3SigV4QueryAuth(Credentials(*OWNER.split(":")), "s3", "local-1", seconds).add_auth(request)
        return request.url

    def test_temporary_credentials_need_their_token_and_expire(self):
        role = client(ROLE)
        role.put_object(Bucket=BUCKET, Key="role", Body=b"1")
        self.assertEqual(role.get_object(Bucket=BUCKET, Key="role")["Body"].read(), b"1")
        access, secret, token = ROLE.split(":", 2)
        listing = lambda key: {"call": client(key).list_objects_v2, "Bucket": BUCKET}
        self.fails(400, "InvalidToken", **listing(f"{access}:{secret}"))
        self.fails(400, "InvalidToken", **listing(f"{access}:{secret}:{token[::-1]}"))
        self.fails(400, "InvalidToken", **listing(f"{OWNER}:{token}"))
        self.fails(403, "SignatureDoesNotMatch", **listing(f"{access}:wrong:{token}"))
        self.fails(403, "InvalidAccessKeyId", **listing("nobody:secret"))
        self.fails(400, "ExpiredToken", **listing(EXPIRED))
        url = client(EXPIRED).generate_presigned_url("get_object", Params={"Bucket": BUCKET, "Key": "role"})
        self.refused(fetch("GET", url), 400, "ExpiredToken")

    def test_unsigned_requests_are_refused(self):
        self.put("unsigned")
        for method, path in (("GET", "/unsigned"), ("PUT", "/unsigned"), ("DELETE", "/unsigned"), ("GET", "?list-type=2")):
            self.refused(fetch(method, f"{ENDPOINT}/{BUCKET}{path}"), 403, "AccessDenied")
        self.assertEqual(self.body("unsigned"), b"x")

    def send(self, body, sent, when=None):
        """A PUT of `body` signed as at `when`, whose bytes are `sent`."""
        request = AWSRequest("PUT", f"{ENDPOINT}/{BUCKET}/signed-body", data=body)
        with clock_at(when or datetime.datetime.now(datetime.timezone.utc)):
            S3SigV4Auth(Credentials(*OWNER.split(":")), "s3", "local-1").add_auth(request)
        return fetch("PUT", request.url, sent, dict(request.headers))

    def test_the_signature_covers_body_and_time(self):
        self.assertEqual(self.send(b"body", b"body")[0], 200)
        self.refused(self.send(b"body", b"evil"), 400, "XAmzContentSHA256Mismatch")
        self.assertEqual(self.body("signed-body"), b"body")
        now = datetime.datetime.now(datetime.timezone.utc)
        for away in (-HOUR, HOUR):
            self.refused(self.send(b"late", b"late", now + away), 403, "RequestTimeTooSkewed")
        self.assertEqual(self.body("signed-body"), b"body")


class ZModels(unittest.TestCase):
    """Last by its name: what all the others got."""

    def test_every_reply_is_as_the_model_has_it(self):
        print(f"\n{WATCHING.report()}")
        self.assertEqual(WATCHING.problems, [])
        self.assertGreater(len(WATCHING.replies), 20)


if __name__ == "__main__":
    ENDPOINT, BUCKET, OWNER, ROLE, EXPIRED = sys.argv[1:6]
    S3 = client(OWNER)
    WATCHING = validate.watch(S3)
    unittest.main(argv=sys.argv[:1], verbosity=2)
