"""Uploads in parts."""

import base64
import hashlib

from s3_case import BUCKET, S3, Case

PART = 5 << 20


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
