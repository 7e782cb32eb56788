"""One call of boto3: a client that shares no code with the programs under test.

usage: call.py ENDPOINT REGION ACCESS_KEY SECRET_KEY SERVICE METHOD [ARGUMENTS]       (arguments and answer in JSON)
"""

import base64
import json
import sys

import boto3
from botocore.config import Config

endpoint, region, access_key, secret_key, service, method, *arguments = sys.argv[1:]
client = boto3.client(
    service,
    endpoint_url=endpoint,
    region_name=region,
    aws_access_key_id=access_key,
    aws_secret_access_key=secret_key,
    config=Config(connect_timeout=10, read_timeout=60),
)
answer = getattr(client, method)(**json.loads(arguments[0] if arguments else "{}"))
print(json.dumps(answer, default=lambda value: base64.b64encode(value).decode() if isinstance(value, bytes) else str(value)))
