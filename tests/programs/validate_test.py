"""validate.py finds what is wrong with a reply, and nothing in a right one."""

import unittest
import xml.etree.ElementTree as ElementTree

import boto3
from botocore.awsrequest import AWSResponse

import validate

EC2 = 'xmlns="http://ec2.amazonaws.com/doc/2016-11-15/"'
S3 = 'xmlns="http://s3.amazonaws.com/doc/2006-03-01/"'
INSTANCES = f"""<DescribeInstancesResponse {EC2}><requestId>r-1</requestId><reservationSet><item>
<reservationId>r-0</reservationId><groupSet/><instancesSet><item><instanceId>i-1</instanceId>
<instanceState><code>16</code><name>running</name></instanceState><launchTime>2026-01-02T03:04:05.000Z</launchTime>
<ebsOptimized>false</ebsOptimized></item></instancesSet></item></reservationSet></DescribeInstancesResponse>"""
LISTING = f"""<ListBucketResult {S3}><Name>b</Name><Prefix/><KeyCount>1</KeyCount><MaxKeys>1000</MaxKeys>
<IsTruncated>false</IsTruncated><Contents><Key>a</Key><LastModified>2026-01-02T03:04:05.000Z</LastModified>
<ETag>&quot;x&quot;</ETag><Size>3</Size><StorageClass>STANDARD</StorageClass></Contents></ListBucketResult>"""


def s3(operation, status, headers, body):
    return validate.check("s3", operation, status, {"X-Amz-Request-Id": "r", **headers}, body)


def instances(old="", new=""):
    assert old in INSTANCES
    return validate.check("ec2", "DescribeInstances", 200, {}, INSTANCES.replace(old, new, 1) if old else INSTANCES)


def listing(old="", new="", headers=None):
    assert old in LISTING
    body = LISTING.replace(old, new, 1) if old else LISTING
    return s3("ListObjectsV2", 200, headers or {}, body)


class Replies(unittest.TestCase):
    def only(self, problems, *words):
        self.assertEqual(len(problems), 1, problems)
        for word in words:
            self.assertIn(word, problems[0])

    def test_right_replies_have_no_problems(self):
        self.assertEqual(instances(), [])
        self.assertEqual(listing(), [])
        self.assertEqual(s3("DeleteObject", 204, {}, b""), [])
        self.assertEqual(s3("GetObject", 206, {"Content-Range": "bytes 0-1/2"}, b"any bytes"), [])
        self.assertEqual(s3("HeadObject", 404, {}, b""), [])
        tags = f"<CreateTagsResponse {EC2}><requestId>r</requestId><return>true</return></CreateTagsResponse>"
        self.assertEqual(validate.check("ec2", "CreateTags", 200, {}, tags), [])

    def test_elements_that_no_model_has(self):
        self.only(instances("<groupSet/>", "<groupSet/><bogus>1</bogus>"), "bogus", "not in the model")
        self.only(instances("<name>running</name>", "<name>running</name><x/>"), "instanceState/x")
        self.only(listing("<Size>", "<Colour>red</Colour><Size>"), "Contents/Colour")
        self.only(listing("<Name>b", "<bucket/><Name>b"), "ListBucketResult/bucket")
        self.only(instances("<groupSet/>", '<groupSet colour="red"/>'.replace("groupSet", "bogus")), "bogus")

    def test_lists_have_their_own_item_names(self):
        self.only(instances("<instancesSet><item>", "<instancesSet><member/><item>"), "member", "instead of item")

    def test_wrong_types(self):
        self.only(instances("<code>16</code>", "<code>x</code>"), "'x' is no integer")
        self.only(instances("<code>16</code>", "<code>4294967296</code>"), "is no integer")
        self.only(instances("<ebsOptimized>false", "<ebsOptimized>False"), "is no boolean")
        self.only(listing("<Size>3", "<Size>"), "'' is no long")
        self.only(listing("<Key>a", "<Key>a<b/>"), "Contents/Key", "holds elements")
        self.only(listing("<IsTruncated>", "text<IsTruncated>"), "text between elements")

    def test_values_outside_an_enumeration(self):
        self.only(instances("<name>running", "<name>jogging"), "'jogging' is none of")
        self.only(listing("<StorageClass>STANDARD", "<StorageClass>"), "'' is none of")

    def test_times(self):
        for wrong in ("yesterday", "2026-13-02T03:04:05Z", "2026-01-02 03:04:05", "1767323045", ""):
            self.only(instances("2026-01-02T03:04:05.000Z", wrong), "is no iso8601 time")
        head = {"Last-Modified": "Fri, 02 Jan 2026 03:04:05 GMT"}
        self.assertEqual(s3("HeadObject", 200, head, b""), [])
        head = {"Last-Modified": "2026-01-02T03:04:05Z"}
        self.only(s3("HeadObject", 200, head, b""), "last-modified", "rfc822")

    def test_twice_and_missing(self):
        self.only(listing("<Name>b</Name>", "<Name>b</Name><Name>c</Name>"), "Name", "comes 2 times")
        self.only(instances("<requestId>r-1</requestId>"), "requestId", "is missing")
        body = f"<Tagging {S3}></Tagging>"
        self.assertIn("required", str(s3("GetObjectTagging", 200, {}, body)))

    def test_roots_namespaces_statuses_and_headers(self):
        self.only(listing(S3, EC2), "namespace")
        self.only(validate.check("ec2", "StopInstances", 200, {}, INSTANCES.split("<res")[0] +
                                 "</DescribeInstancesResponse>"), "root")
        self.only(s3("DeleteObject", 200, {}, b""), "200 instead of 204")
        self.only(s3("PutObject", 200, {"x-amz-colour": "red"}, b""), "x-amz-colour")
        self.only(validate.check("s3", "HeadBucket", 200, {}, b""), "x-amz-request-id", "is missing")
        self.only(listing(headers={"content-type": "text/html"}), "content-type")
        self.only(s3("ListParts", 200, {}, b""), "is empty")
        self.only(validate.check("ec2", "DescribeTags", 200, {}, b"<html>"), "is no XML")

    def test_errors(self):
        right = b"<Error><Code>NoSuchKey</Code><Message>gone</Message></Error>"
        self.assertEqual(s3("GetObject", 404, {}, right), [])
        self.only(s3("GetObject", 404, {}, b"<Error><Code>NoSuchKey</Code></Error>"), "Message")
        self.only(s3("GetObject", 404, {}, b""), "without a body")
        self.only(s3("GetObject", 404, {}, right.replace(b"<Mess", b"<x/><Mess")), "Error/x")
        right = ("<Response><Errors><Error><Code>InvalidInstanceID.NotFound</Code><Message>no</Message></Error></Errors>"
                 "<RequestID>r</RequestID></Response>")
        self.assertEqual(validate.check("ec2", "StopInstances", 400, {}, right), [])
        self.only(validate.check("ec2", "StopInstances", 400, {}, right.replace("RequestID", "RequestId")
                                 .replace("<RequestId>r</RequestId>", "")), "RequestID", "is missing")
        self.assertTrue(validate.check("ec2", "StopInstances", 500, {}, "<html><body/></html>"))

    def test_a_watched_client_keeps_what_it_got(self):
        client = boto3.client("s3", region_name="local-1", aws_access_key_id="a", aws_secret_access_key="b",
                              endpoint_url="http://127.0.0.1:9")
        watching = validate.watch(client)
        body = LISTING.replace("<Size>", "<Colour/><Size>").encode()

        class Raw:
            def stream(self, **_):
                return iter([body])

        client.meta.events.register("before-send.s3", lambda **_: AWSResponse("http://x/", 200, {"x-amz-request-id": "r"}, Raw()))
        self.assertEqual(client.list_objects_v2(Bucket="b")["Contents"][0]["Key"], "a")
        self.assertEqual(dict(watching.replies), {"ListObjectsV2": 1})
        self.only(watching.problems, "ListObjectsV2", "Colour")
        self.assertIn("1 replies of 1 operations", watching.report())
        self.assertGreaterEqual(watching.compared, len(ElementTree.fromstring(body)))


if __name__ == "__main__":
    unittest.main()
