"""What boto3 sees of a local cloud: a client that shares no code with the programs under test. What S3 answers is
compared with botocore's model of it, and must agree.

usage: stranger.py CLOUD_JSON instances | objects PREFIX | get KEY FILE       (answers in JSON)
"""

import json
import sys

import boto3
from botocore.config import Config

import validate

WATCHING = validate.Watching()


def client(cloud, service):
    made = boto3.client(
        service,
        endpoint_url=cloud[f"{service}_endpoint"],
        region_name=cloud["region"],
        aws_access_key_id=cloud["access_key"],
        aws_secret_access_key=cloud["secret_key"],
        config=Config(connect_timeout=10, read_timeout=60, s3={"addressing_style": "path"}),
    )
    if service == "s3":
        validate.watch(made, WATCHING)
    return made


def instances(cloud):
    pages = client(cloud, "ec2").get_paginator("describe_instances").paginate()
    reservations = [reservation for page in pages for reservation in page["Reservations"]]
    return [
        {
            "id": one["InstanceId"],
            "state": one["State"]["Name"],
            "client_token": one.get("ClientToken", ""),
            "address": one.get("PrivateIpAddress"),
            "launch_index": one.get("AmiLaunchIndex"),
            "tags": {tag["Key"]: tag["Value"] for tag in one.get("Tags", [])},
        }
        for reservation in reservations
        for one in reservation["Instances"]
    ]


def objects(cloud, prefix):
    pages = client(cloud, "s3").get_paginator("list_objects_v2").paginate(Bucket=cloud["bucket"], Prefix=prefix)
    return [{"key": one["Key"], "size": one["Size"]} for page in pages for one in page.get("Contents", [])]


def get(cloud, key, file):
    client(cloud, "s3").download_file(cloud["bucket"], key, file)
    return {}


with open(sys.argv[1], encoding="utf-8") as file:
    CLOUD = json.load(file)
VERBS = {"instances": instances, "objects": objects, "get": get}
ANSWER = VERBS[sys.argv[2]](CLOUD, *sys.argv[3:])
if WATCHING.problems:
    sys.exit("\n".join(["these replies are not as botocore's model has them:", *WATCHING.problems]))
print(json.dumps(ANSWER))
