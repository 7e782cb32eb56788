"""Checks replies of S3 (rest-xml) and EC2 against botocore's service models, which nobody here wrote.

botocore passes over what its models do not know. So every raw reply is compared with its operation's output shape:
unknown elements, attributes and headers, values of another type, outside an enumeration or a bound, elements that come
twice or are missing, times that are none, wrong roots, namespaces and statuses.

    watching = validate.watch(boto3.client("s3", ...))
    ...                          # use the client
    print(watching.report())     # operations, replies, elements compared; then every problem
    assert not watching.problems

By hand, for the body of one reply: validate.py SERVICE OPERATION STATUS <BODY
"""

import base64
import binascii
import collections
import datetime
import email.utils
import functools
import re
import sys
import xml.etree.ElementTree as ElementTree

import botocore.session

NAMESPACES = {"s3": "http://s3.amazonaws.com/doc/2006-03-01/", "ec2": "http://ec2.amazonaws.com/doc/2016-11-15/"}
XSI = "http://www.w3.org/2001/XMLSchema-instance"

# The model of S3 does not name the roots of replies; the API reference does.
S3_ROOTS = {
    "ListBuckets": "ListAllMyBucketsResult",
    "ListObjects": "ListBucketResult",
    "ListObjectsV2": "ListBucketResult",
    "ListObjectVersions": "ListVersionsResult",
    "ListMultipartUploads": "ListMultipartUploadsResult",
    "ListParts": "ListPartsResult",
    "CreateMultipartUpload": "InitiateMultipartUploadResult",
    "CompleteMultipartUpload": "CompleteMultipartUploadResult",
    "CopyObject": "CopyObjectResult",
    "UploadPartCopy": "CopyPartResult",
    "DeleteObjects": "DeleteResult",
    "GetObjectAttributes": "GetObjectAttributesResponse",
    "GetBucketLocation": "LocationConstraint",
}

# Headers of S3 that belong to no operation's shape, and what its errors may hold.
S3_HEADERS = {"x-amz-request-id", "x-amz-id-2", "x-amz-bucket-region"}
S3_ERROR = {"Code", "Message", "Resource", "RequestId", "HostId", "Key", "BucketName", "Condition", "ArgumentName",
            "ArgumentValue", "Region", "UploadId", "PartNumber", "ETag", "RangeRequested", "ActualObjectSize",
            "AWSAccessKeyId", "StringToSign", "SignatureProvided", "StringToSignBytes", "CanonicalRequest",
            "CanonicalRequestBytes", "Expires", "ServerTime", "X-Amz-Expires", "Token-0", "Size", "MaxSizeAllowed",
            "ProposedSize", "MinSizeAllowed", "Header", "Method", "ResourceType", "AllowedMethods"}

# Values outside AWS's enumerations that are meant: the region of the local cloud is its own.
OWN_VALUES = {("BucketLocationConstraint", "local-1")}

INTEGERS = {"integer": 31, "long": 63}


def watch(client, watching=None):
    """Compares every reply that `client` gets from now on, those that it retries included."""
    watching = watching or Watching()
    service = client.meta.service_model.service_id.hyphenize()
    client.meta.events.register_first(f"before-parse.{service}", watching.reply)
    return watching


class Watching:
    """What was compared and what was wrong with it."""

    def __init__(self):
        self.problems = []
        self.replies = collections.Counter()
        self.errors = collections.defaultdict(collections.Counter)
        self.compared = 0

    def reply(self, operation_model, response_dict, **_):
        checker = Checker(operation_model)
        code = checker.reply(response_dict["status_code"], response_dict["headers"], response_dict["body"])
        self.replies[operation_model.name] += 1
        self.compared += checker.compared
        if code is not None:
            self.errors[operation_model.name][code] += 1
        self.problems += [f"{operation_model.name}: {problem}" for problem in checker.problems]

    def report(self):
        lines = [f"{'operation':<28} replies  errors"]
        for name, count in sorted(self.replies.items()):
            codes = ", ".join(f"{code} {times}" for code, times in sorted(self.errors[name].items()))
            lines.append(f"{name:<28} {count:>7}  {codes or '-'}")
        lines.append(f"{sum(self.replies.values())} replies of {len(self.replies)} operations, {self.compared} values "
                     f"compared with botocore's models: {len(self.problems)} problems")
        return "\n".join(lines + self.problems)


@functools.cache
def model(service):
    return botocore.session.get_session().get_service_model(service)


def check(service, operation, status, headers, body):
    """The problems of one reply."""
    checker = Checker(model(service).operation_model(operation))
    checker.reply(status, headers, body)
    return checker.problems


class Checker:
    """Compares one reply."""

    def __init__(self, operation):
        self.operation = operation
        self.service = operation.service_model.service_name
        self.is_ec2 = operation.service_model.metadata["protocol"] == "ec2"
        if not self.is_ec2 and operation.service_model.metadata["protocol"] != "rest-xml":
            raise ValueError(f"{self.service}: only the protocols rest-xml and ec2 are known here")
        self.problems = []
        self.compared = 0

    def wrong(self, place, what):
        self.problems.append(f"{place}: {what}")

    def reply(self, status, headers, body):
        """Compares; the error's code, if it is an error."""
        headers = {name.lower(): value for name, value in headers.items()}
        if not self.is_ec2 and not headers.get("x-amz-request-id"):
            self.wrong("header x-amz-request-id", "is missing")
        if status >= 300:
            return self.error(status, body)
        wanted = self.operation.http.get("responseCode", 200)
        if status != wanted and not (status == 206 and wanted == 200 and "content-range" in headers):
            self.wrong("status", f"{status} instead of {wanted}")
        shape = self.operation.output_shape
        if not self.is_ec2:
            self.headers(shape, headers)
        if shape is not None and shape.serialization.get("payload"):
            payload = shape.members[shape.serialization["payload"]]
            if payload.type_name == "structure":
                self.body(payload, payload.members, headers, body)
            return None
        members = shape.members if shape is not None else {}
        self.body(shape, {name: member for name, member in members.items() if "location" not in member.serialization},
                  headers, body)
        return None

    # Headers

    def headers(self, shape, headers):
        known, prefixes = set(S3_HEADERS), []
        for name, member in (shape.members if shape is not None else {}).items():
            location, header = member.serialization.get("location"), member.serialization.get("name", name).lower()
            if location == "headers":
                prefixes.append(header)
            elif location == "header":
                known.add(header)
                if header in headers:
                    self.scalar(member, headers[header], f"header {header}", "rfc822")
                elif name in shape.required_members:
                    self.wrong(f"header {header}", "is required and missing")
        for header in headers:
            if header.startswith("x-amz-") and header not in known and not header.startswith(tuple(prefixes)):
                self.wrong(f"header {header}", "is not in the model")

    # Bodies

    def body(self, shape, members, headers, body):
        if not body:
            if self.is_ec2 or any(name in members for name in (shape.required_members if shape is not None else [])):
                self.wrong("body", "is empty")
            elif self.operation.name in S3_ROOTS and self.operation.http["method"] != "HEAD":
                self.wrong("body", "is empty")
            return
        if "xml" not in headers.get("content-type", "xml"):
            self.wrong("header content-type", f"{headers['content-type']!r} with a body of XML")
        root = self.parse(body)
        if root is None:
            return
        self.root(root, f"{self.operation.name}Response" if self.is_ec2 else S3_ROOTS.get(self.operation.name))
        place = bare(root.tag)
        if self.operation.name == "GetBucketLocation":
            self.scalar(members["LocationConstraint"], root.text or "", place, "iso8601")
            return
        extra = {"requestId"} if self.is_ec2 else set()
        if self.is_ec2 and not (root.findtext("{*}requestId") or "").strip():
            self.wrong(f"{place}/requestId", "is missing")
        if self.is_ec2 and shape is None:
            extra.add("return")
        self.structure(shape, members, root, place, extra)

    def parse(self, body):
        try:
            return ElementTree.fromstring(body)
        except ElementTree.ParseError as error:
            self.wrong("body", f"is no XML ({error}): {body[:120]!r}")
            return None

    def root(self, root, name):
        if name is None:
            self.wrong("root", f"{bare(root.tag)}: no body is known of this operation")
        elif bare(root.tag) != name:
            self.wrong("root", f"{bare(root.tag)} instead of {name}")
        space = root.tag[1:].split("}")[0] if root.tag.startswith("{") else ""
        if space.rstrip("/") != NAMESPACES[self.service].rstrip("/"):
            self.wrong("root", f"namespace {space!r} instead of {NAMESPACES[self.service]!r}")

    def value(self, shape, node, place):
        if shape.type_name == "structure":
            self.structure(shape, shape.members, node, place)
        elif shape.type_name == "list":
            self.items(shape, node, place)
        elif shape.type_name == "map":
            self.wrong(place, "is a map, which neither S3 nor EC2 has in replies")
        else:
            if len(node):
                self.wrong(place, f"holds elements instead of a {shape.type_name}")
            if node.attrib:
                self.wrong(place, f"attributes {sorted(node.attrib)} are not in the model")
            self.scalar(shape, node.text or "", place, "iso8601")

    def structure(self, shape, members, node, place, extra=()):
        self.no_text(node, place)
        names = {}
        for name, member in members.items():
            flat = member.type_name == "list" and member.serialization.get("flattened")
            element = member.serialization.get("name") or (member.member.serialization.get("name") if flat else None)
            names[element or name] = (name, member, flat)
        self.attributes(members, node, place)
        seen = collections.defaultdict(list)
        for child in node:
            seen[bare(child.tag)].append(child)
        for element, children in seen.items():
            if element in extra:
                continue
            if element not in names:
                self.wrong(f"{place}/{element}", "is not in the model")
                continue
            _, member, flat = names[element]
            if flat:
                self.count(member, len(children), f"{place}/{element}")
                for child in children:
                    self.value(member.member, child, f"{place}/{element}")
                continue
            if len(children) > 1:
                self.wrong(f"{place}/{element}", f"comes {len(children)} times")
            self.value(member, children[0], f"{place}/{element}")
        for element, (name, _, _) in names.items():
            if shape is not None and name in shape.required_members and element not in seen:
                self.wrong(f"{place}/{element}", "is required and missing")

    def attributes(self, members, node, place):
        known = {member.serialization["name"].split(":")[-1]
                 for member in members.values() if member.serialization.get("xmlAttribute")}
        for name in node.attrib:
            if not (name.startswith(f"{{{XSI}}}") and bare(name) in known):
                self.wrong(place, f"attribute {bare(name)} is not in the model")

    def items(self, shape, node, place):
        self.no_text(node, place)
        wanted = shape.member.serialization.get("name", "member")
        self.count(shape, len(node), place)
        for child in node:
            if bare(child.tag) != wanted:
                self.wrong(f"{place}/{bare(child.tag)}", f"instead of {wanted}")
            else:
                self.value(shape.member, child, f"{place}/{wanted}")

    def count(self, shape, length, place):
        self.bounds(shape, length, place, "items")

    def no_text(self, node, place):
        if (node.text or "").strip() or any((child.tail or "").strip() for child in node):
            self.wrong(place, "holds text between elements")

    # Values

    def scalar(self, shape, text, place, times):
        self.compared += 1
        kind = shape.type_name
        if kind in ("string", "character"):
            if getattr(shape, "enum", None) and text not in shape.enum and (shape.name, text) not in OWN_VALUES:
                self.wrong(place, f"{text!r} is none of {shape.enum[:8]}")
            self.bounds(shape, len(text), place, "characters")
        elif kind in INTEGERS:
            if not re.fullmatch(r"-?\d+", text) or not -(1 << INTEGERS[kind]) <= int(text) < 1 << INTEGERS[kind]:
                self.wrong(place, f"{text!r} is no {kind}")
            else:
                self.bounds(shape, int(text), place, "")
        elif kind in ("float", "double"):
            if not re.fullmatch(r"-?\d+(\.\d+)?([eE][-+]?\d+)?", text):
                self.wrong(place, f"{text!r} is no {kind}")
        elif kind == "boolean":
            if text not in ("true", "false"):
                self.wrong(place, f"{text!r} is no boolean")
        elif kind == "timestamp":
            if not is_time(text, shape.serialization.get("timestampFormat", times)):
                self.wrong(place, f"{text!r} is no {shape.serialization.get('timestampFormat', times)} time")
        elif kind == "blob":
            try:
                base64.b64decode(text, validate=True)
            except binascii.Error:
                self.wrong(place, f"{text[:40]!r} is no base64")
        elif kind == "list":
            for one in text.split(","):
                self.scalar(shape.member, one.strip(), place, times)
        else:
            self.wrong(place, f"has the type {kind}, which is not known here")

    def bounds(self, shape, number, place, unit):
        low, high = shape.metadata.get("min"), shape.metadata.get("max")
        if (low is not None and number < low) or (high is not None and number > high):
            self.wrong(place, f"{number} {unit}".strip() + f" outside {low}..{high}")

    # Errors

    def error(self, status, body):
        if not body:
            if self.operation.http["method"] != "HEAD" and status != 304:
                self.wrong("error", f"{status} without a body")
            return str(status)
        root = self.parse(body)
        if root is None:
            return str(status)
        error = root
        if self.is_ec2:
            self.names(root, "Response", {"Errors", "RequestID"}, required={"Errors", "RequestID"})
            error = root.find("Errors/Error")
            if error is None:
                self.wrong("error", "holds no Errors/Error")
                return str(status)
        self.names(error, "Error", {"Code", "Message"} if self.is_ec2 else S3_ERROR, required={"Code", "Message"})
        code = (error.findtext("Code") or "").strip()
        for shape in self.operation.error_shapes:
            wanted = shape.metadata.get("error", {}).get("httpStatusCode", status)
            if shape.error_code == code and wanted != status:
                self.wrong("error", f"{code} with status {status} instead of {wanted}")
        return code

    def names(self, node, name, known, required):
        if node.tag != name:
            self.wrong("error", f"{node.tag} instead of {name}")
        for child in node:
            if child.tag not in known:
                self.wrong(f"error {name}/{child.tag}", "is not in the reference")
        for element in required:
            if not len(node.findall(f"{element}/*")) and not (node.findtext(element) or "").strip():
                self.wrong(f"error {name}/{element}", "is missing")


def bare(tag):
    return tag.rsplit("}", 1)[-1]


def is_time(text, form):
    try:
        if form == "iso8601":
            datetime.datetime.fromisoformat(text.replace("Z", "+00:00"))
            return re.fullmatch(r"\d{4}-\d\d-\d\dT\d\d:\d\d:\d\d(\.\d{1,9})?Z", text) is not None
        if form == "rfc822":
            parsed = email.utils.parsedate_to_datetime(text)
            return text == email.utils.format_datetime(parsed.astimezone(datetime.timezone.utc), usegmt=True)
        return re.fullmatch(r"\d+(\.\d+)?", text) is not None
    except ValueError:
        return False


if __name__ == "__main__":
    if len(sys.argv) != 4:
        sys.exit("usage: validate.py SERVICE OPERATION STATUS <BODY")
    found = check(sys.argv[1], sys.argv[2], int(sys.argv[3]), {"x-amz-request-id": "-"}, sys.stdin.buffer.read())
    print("\n".join(found) or "no problems")
    sys.exit(1 if found else 0)
