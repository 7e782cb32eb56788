"""Drives every action of a local cloud's EC2 API with boto3 and the aws command line, and compares every reply that
boto3 gets with botocore's models (validate.py).

usage: cloud_api.py CLOUD_JSON EC2MPI AWS         (EC2MPI_CLOUD_DIR names the cloud; prints the table)
"""

import base64
import json
import os
import subprocess
import sys
import time

import boto3
import validate
from botocore.config import Config
from botocore.exceptions import ClientError, ConnectionClosedError

CLOUD_JSON, EC2MPI, AWS = sys.argv[1:]
with open(CLOUD_JSON, encoding="utf-8") as file:
    CLOUD = json.load(file)
ONE = {"ImageId": "ami-00000000000000001", "MinCount": 1, "MaxCount": 1}
KEYS = {
    "AWS_ACCESS_KEY_ID": CLOUD["access_key"],
    "AWS_SECRET_ACCESS_KEY": CLOUD["secret_key"],
    "AWS_DEFAULT_REGION": CLOUD["region"],
    "AWS_ENDPOINT_URL_EC2": CLOUD["ec2_endpoint"],
    "AWS_MAX_ATTEMPTS": "1",
    "AWS_EC2_METADATA_DISABLED": "true",
    "HOME": "/nonexistent",
}
CHECKS = 0


def client(attempts):
    return boto3.client(
        "ec2",
        endpoint_url=CLOUD["ec2_endpoint"],
        region_name=CLOUD["region"],
        aws_access_key_id=CLOUD["access_key"],
        aws_secret_access_key=CLOUD["secret_key"],
        config=Config(connect_timeout=5, read_timeout=30, retries={"total_max_attempts": attempts, "mode": "standard"}),
    )


EC2 = client(1)
WATCHING = [validate.watch(EC2)]


def same(found, wanted, what):
    global CHECKS
    CHECKS += 1
    assert found == wanted, f"{what}: {found!r} instead of {wanted!r}"


def refused(code, operation, **arguments):
    """The operation is answered with this code."""
    try:
        getattr(EC2, operation)(**arguments)
    except ClientError as error:
        same(error.response["Error"]["Code"], code, f"{operation} {arguments}")
        return error.response
    raise AssertionError(f"{operation} {arguments} was done instead of refused with {code}")


def fault(*words):
    subprocess.run([EC2MPI, "cloud", "fault", *words], check=True, stdout=subprocess.DEVNULL)


def run(**arguments):
    return [one["InstanceId"] for one in EC2.run_instances(**{**ONE, **arguments})["Instances"]]


def listed(**arguments):
    found = EC2.describe_instances(**arguments)["Reservations"]
    return sorted(one["InstanceId"] for reservation in found for one in reservation["Instances"])


def by(name, *values):
    return listed(Filters=[{"Name": name, "Values": list(values)}])


def until(what, look, limit=20):
    begun = time.monotonic()
    while not (found := look()):
        assert time.monotonic() - begun < limit, f"waited in vain: {what}"
        time.sleep(0.05)
    return found


def places():
    same([one["RegionName"] for one in EC2.describe_regions()["Regions"]], [CLOUD["region"]], "regions")
    zones = [one["ZoneName"] for one in EC2.describe_availability_zones()["AvailabilityZones"]]
    subnets = EC2.describe_subnets()["Subnets"]
    same(sorted(one["AvailabilityZone"] for one in subnets), zones, "a subnet in each zone")
    same(len(EC2.describe_security_groups()["SecurityGroups"]), 1, "security groups")
    image = EC2.describe_images(ImageIds=[ONE["ImageId"]])["Images"][0]
    same(image["State"], "available", "image")
    types = EC2.describe_instance_types()["InstanceTypes"]
    assert {"local.machine", "c7i.large"} <= {one["InstanceType"] for one in types}
    fits = [{"Name": "processor-info.supported-architecture", "Values": [image["Architecture"]]}]
    same({tuple(one["ProcessorInfo"]["SupportedArchitectures"]) for one in
          EC2.describe_instance_types(Filters=fits)["InstanceTypes"]}, {(image["Architecture"],)}, "filter")
    return image["Architecture"]


def errors(architecture):
    other = "c7g.xlarge" if architecture == "x86_64" else "c7i.large"
    table = [
        ("InvalidAMIID.NotFound", {"ImageId": "ami-12345678"}),
        ("InvalidAMIID.Malformed", {"ImageId": "debian"}),
        ("InvalidParameterValue", {"InstanceType": "c99.huge"}),
        ("InvalidParameterValue", {"InstanceType": other}),
        ("InvalidParameterValue", {"MinCount": 2}),
        ("InvalidParameterValue", {"MinCount": 0}),
        ("InvalidSubnetID.NotFound", {"SubnetId": "subnet-12345678"}),
        ("InvalidGroup.NotFound", {"SecurityGroupIds": ["sg-12345678"]}),
        ("InvalidKeyPair.NotFound", {"KeyName": "mine"}),
        ("InvalidParameterValue", {"UserData": "x" * (16 * 1024 + 1)}),
        ("InvalidParameterValue", {"ClientToken": "t" * 65}),
        ("InvalidParameterValue", {"Placement": {"AvailabilityZone": "eu-west-1a"}}),
        ("UnsupportedOperation", {"Placement": {"GroupName": "cluster"}}),
        ("InsufficientFreeAddressesInSubnet", {"MinCount": 1000, "MaxCount": 1000}),
        ("DryRunOperation", {"DryRun": True}),
    ]
    for code, arguments in table:
        refused(code, "run_instances", **{**ONE, **arguments})
    unknown = ["i-0123456789abcdef0"]
    refused("InvalidInstanceID.NotFound", "describe_instances", InstanceIds=unknown)
    refused("InvalidInstanceID.Malformed", "describe_instances", InstanceIds=["i-x"])
    for operation in ("terminate_instances", "reboot_instances"):
        refused("InvalidInstanceID.NotFound", operation, InstanceIds=unknown)
        refused("InvalidInstanceID.Malformed", operation, InstanceIds=["x"])
    refused("InvalidInstanceID.NotFound", "get_console_output", InstanceId=unknown[0])
    refused("InvalidInstanceType", "describe_instance_types", InstanceTypes=["c99.huge"])
    refused("InvalidParameterValue", "describe_instances", Filters=[{"Name": "colour", "Values": ["red"]}])
    refused("InvalidParameterValue", "describe_instances", MaxResults=4)
    refused("InvalidParameterValue", "describe_instances", NextToken="x")
    refused("InvalidParameterCombination", "describe_instances", InstanceIds=unknown, MaxResults=5)
    refused("InvalidAction", "describe_volumes")
    same(by("tag:none", "x"), [], "nothing was launched by all this")


def life():
    """One machine, from its launch to its end."""
    arguments = {
        "ClientToken": "life", "UserData": "#!/bin/sh\necho hello from user-data\n",
        "InstanceInitiatedShutdownBehavior": "terminate",
        "MetadataOptions": {"HttpTokens": "required", "HttpPutResponseHopLimit": 1},
        "TagSpecifications": [{"ResourceType": "instance", "Tags": [{"Key": "a:b", "Value": "<1&2>"}]}],
    }
    fault("add", "settle", "--hidden", "1s", "--pending", "2s", "--count", "1")
    [one] = run(**arguments)
    refused("InvalidInstanceID.NotFound", "describe_instances", InstanceIds=[one])
    refused("InvalidInstanceID.NotFound", "terminate_instances", InstanceIds=[one])
    same(by("client-token", "life"), [], "not listed yet")
    same(run(**arguments), [one], "the same token launches once")
    refused("IdempotentParameterMismatch", "run_instances", **{**ONE, **arguments, "MaxCount": 2})
    until("it is listed", lambda: by("client-token", "life") == [one])
    same(by("instance-state-name", "pending"), [one], "pending for a while")
    EC2.get_waiter("instance_running").wait(InstanceIds=[one], WaiterConfig={"Delay": 1, "MaxAttempts": 20})
    for name, value in (("tag:a:b", "<1*"), ("tag-key", "a:?"), ("instance-id", one), ("instance-state-name", "running")):
        same(by(name, "nothing", value), [one], name)
    EC2.create_tags(Resources=[one], Tags=[{"Key": "k", "Value": "v"}])
    EC2.delete_tags(Resources=[one], Tags=[{"Key": "a:b"}])
    tags = EC2.describe_tags(Filters=[{"Name": "resource-id", "Values": [one]}])["Tags"]
    same([(tag["Key"], tag["Value"]) for tag in tags], [("k", "v")], "tags")
    text = EC2.describe_instance_attribute(InstanceId=one, Attribute="userData")["UserData"]["Value"]
    same(base64.b64decode(text).decode(), arguments["UserData"], "user-data")
    behaviour = EC2.describe_instance_attribute(InstanceId=one, Attribute="instanceInitiatedShutdownBehavior")
    same(behaviour["InstanceInitiatedShutdownBehavior"]["Value"], "terminate", "shutdown behaviour")
    until("console", lambda: "hello from user-data" in EC2.get_console_output(InstanceId=one).get("Output", ""))
    refused("DryRunOperation", "terminate_instances", InstanceIds=[one], DryRun=True)
    EC2.reboot_instances(InstanceIds=[one])
    change = EC2.terminate_instances(InstanceIds=[one])["TerminatingInstances"][0]
    same(change["PreviousState"]["Name"], "running", "state before")
    EC2.get_waiter("instance_terminated").wait(InstanceIds=[one], WaiterConfig={"Delay": 1, "MaxAttempts": 20})
    ended = EC2.describe_instances(InstanceIds=[one])["Reservations"][0]["Instances"][0]
    same(ended["StateReason"]["Code"], "Client.UserInitiatedShutdown", "reason")
    refused("IdempotentInstanceTerminated", "run_instances", **{**ONE, **arguments})


def pages():
    """Many reservations: instances without a machine are enough."""
    count = 130
    fault("add", "never-boots", "--launch", ",".join(str(nth) for nth in range(1, 2 * count + 1)))
    launched = sorted(one for _ in range(count) for one in run(MaxCount=2, ClientToken=f"page-{_}"))
    until("all are listed", lambda: len(by("client-token", "page-*")) == 2 * count)
    filters = [{"Name": "client-token", "Values": ["page-*"]}]
    for size in (5, 50, 1000):
        pages = list(EC2.get_paginator("describe_instances").paginate(
            Filters=filters, PaginationConfig={"PageSize": size}))
        found = [one["InstanceId"] for page in pages for reservation in page["Reservations"]
                 for one in reservation["Instances"]]
        same(sorted(found), launched, f"pages of {size}")
        same(len(pages), -(-count // size), f"number of pages of {size}")
        assert all(len(page["Reservations"]) <= size for page in pages)
    for first in range(0, len(launched), 100):
        EC2.terminate_instances(InstanceIds=launched[first:first + 100])
    until("all have ended", lambda: not set(by("instance-state-name", "running", "shutting-down")) & set(launched))
    fault("clear")


def faults():
    fault("add", "capacity", "1")
    refused("InsufficientInstanceCapacity", "run_instances", **{**ONE, "MinCount": 2, "MaxCount": 2})
    fault("add", "never-boots")
    partial = run(MaxCount=3)
    same(len(partial), 1, "as many as there are")
    status = refused("InsufficientInstanceCapacity", "run_instances", **ONE)["ResponseMetadata"]["HTTPStatusCode"]
    same(status, 500, "status of a shortage")
    fault("clear")
    EC2.terminate_instances(InstanceIds=until("listed", lambda: by("instance-id", *partial)))

    fault("add", "throttle", "--action", "DescribeRegions", "--burst", "3", "--refill", "2")
    [EC2.describe_regions() for _ in range(3)]
    same(refused("RequestLimitExceeded", "describe_regions")["ResponseMetadata"]["HTTPStatusCode"], 503, "status")
    EC2.describe_availability_zones()
    patient = client(6)
    WATCHING.append(validate.watch(patient))
    [patient.describe_regions() for _ in range(4)]
    fault("clear")

    fault("add", "never-boots")
    fault("add", "ec2-lost", "--action", "RunInstances", "--count", "1")
    try:
        run(ClientToken="lost")
        raise AssertionError("the answer was not lost")
    except ConnectionClosedError:
        pass
    fault("add", "ec2-lost", "--action", "RunInstances", "--count", "1", "--answer", "500")
    refused("InternalError", "run_instances", **ONE, ClientToken="lost")
    [one] = run(ClientToken="lost")
    same(until("listed", lambda: by("client-token", "lost")), [one], "one machine for three requests")
    fault("add", "ec2-error", "UnauthorizedOperation", "--action", "TerminateInstances", "--count", "1")
    same(refused("UnauthorizedOperation", "terminate_instances", InstanceIds=[one])["ResponseMetadata"]["HTTPStatusCode"],
         403, "status")
    EC2.terminate_instances(InstanceIds=[one])
    fault("clear")


def command_line():
    """The aws command line: another version of botocore, another way to build requests and to read answers."""
    def aws(*words, code=0):
        done = subprocess.run([AWS, "ec2", *words, "--output", "json"], env={**os.environ, **KEYS},
                              capture_output=True, text=True, timeout=60, check=False)
        same(done.returncode, code, f"aws ec2 {' '.join(words)}: {done.stderr.strip()}: exit code")
        return json.loads(done.stdout) if code == 0 and done.stdout.strip() else done.stderr

    specification = "ResourceType=instance,Tags=[{Key=by,Value=aws}]"
    made = aws("run-instances", "--image-id", ONE["ImageId"], "--count", "1:2", "--client-token", "aws-1",
               "--user-data", "#!/bin/sh\necho from aws\n", "--tag-specifications", specification)
    ids = [one["InstanceId"] for one in made["Instances"]]
    same(len(ids), 2, "instances")
    until("listed", lambda: len(by("client-token", "aws-1")) == 2)
    aws("wait", "instance-running", "--instance-ids", *ids)
    found = aws("describe-instances", "--filters", "Name=tag:by,Values=aws", "--query",
                "Reservations[].Instances[].[InstanceId,State.Name]", "--page-size", "5")
    same(sorted(found), sorted([one, "running"] for one in ids), "describe-instances")
    until("console", lambda: "from aws" in aws("get-console-output", "--instance-id", ids[0]).get("Output", ""))
    aws("create-tags", "--resources", *ids, "--tags", "Key=a,Value=b")
    same(len(aws("describe-tags", "--filters", "Name=key,Values=a")["Tags"]), 2, "describe-tags")
    said = aws("describe-instances", "--instance-ids", "i-0123456789abcdef0", code=255)
    assert "(InvalidInstanceID.NotFound)" in said, said
    said = aws("run-instances", "--image-id", ONE["ImageId"], "--count", "1", "--key-name", "mine", code=255)
    assert "(InvalidKeyPair.NotFound)" in said, said
    aws("terminate-instances", "--instance-ids", *ids)
    aws("wait", "instance-terminated", "--instance-ids", *ids)


errors(places())
life()
pages()
faults()
command_line()
alive = by("instance-state-name", "pending", "running", "stopped")
same(alive, [], "no machine is left")
first, second = WATCHING
first.problems += second.problems
first.compared += second.compared
for operation, number in second.replies.items():
    first.replies[operation] += number
    first.errors[operation].update(second.errors[operation])
print(first.report())
print(f"{CHECKS} answers as wanted; aws command line {subprocess.run([AWS, '--version'], capture_output=True, text=True, check=True).stdout.split()[0]}")
sys.exit(1 if first.problems else 0)
