"""What the tests of s3_operations.py share: the server and the keys, which its command line names, and its clients."""

import sys
import unittest
import urllib.error
import urllib.request

import boto3
from botocore.config import Config
from botocore.exceptions import ClientError

import validate

ENDPOINT, BUCKET, OWNER, ROLE, EXPIRED = sys.argv[1:6]
WATCHING = validate.Watching()


def client(key, **config):
    access, secret, *token = key.split(":", 2)
    made = boto3.client(
        "s3",
        endpoint_url=ENDPOINT,
        region_name="local-1",
        aws_access_key_id=access,
        aws_secret_access_key=secret,
        aws_session_token=token[0] if token else None,
        config=Config(s3={"addressing_style": "path"}, retries={"total_max_attempts": 1}, **config),
    )
    validate.watch(made, WATCHING)
    return made


def fetch(method, url, body=None, headers=None):
    """A request by hand: status and body."""
    try:
        request = urllib.request.Request(url, data=body, method=method, headers={"Content-Type": "", **(headers or {})})
        with urllib.request.urlopen(request, timeout=30) as reply:
            return reply.status, reply.read()
    except urllib.error.HTTPError as error:
        return error.code, error.read()


class Case(unittest.TestCase):
    maxDiff = None

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


S3 = client(OWNER)
