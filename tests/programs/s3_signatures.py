"""Who may do it: signatures, presigned URLs, temporary credentials."""

import datetime
import unittest.mock

from botocore.auth import S3SigV4Auth, S3SigV4QueryAuth
from botocore.awsrequest import AWSRequest
from botocore.credentials import Credentials

from s3_case import BUCKET, ENDPOINT, EXPIRED, OWNER, ROLE, Case, client, fetch

HOUR = datetime.timedelta(hours=1)


def clock_at(when):
    """What botocore signs meanwhile it signs as at that time."""
    return unittest.mock.patch("botocore.auth.get_current_datetime", lambda: when)


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
