"""What an S3 server must do, asked with boto3, which shares no code with it: s3probe.py ENDPOINT [BUCKET] [ACCESS:SECRET]

Prints a line a check, `[ok ] name: what came` or `[BAD] name: what came`; which may be bad says the test that runs it.
Every reply is compared with botocore's model of S3 besides (validate.py), and that report printed last."""
import base64, hashlib, http.client, os, sys, threading, time, urllib.error, urllib.request, zlib
from urllib.parse import urlparse

import boto3
import botocore.exceptions
from botocore.auth import S3SigV4Auth
from botocore.awsrequest import AWSRequest
from botocore.config import Config
from botocore.credentials import Credentials

import validate

EP=sys.argv[1]; B=sys.argv[2] if len(sys.argv)>2 else "probe"
AK,SK=(sys.argv[3].split(":") if len(sys.argv)>3 else ("test","testtest"))
s3=boto3.client("s3",endpoint_url=EP,region_name="us-east-1",aws_access_key_id=AK,aws_secret_access_key=SK,config=Config(s3={'addressing_style':'path'},retries={'max_attempts':1},read_timeout=120,signature_version='s3v4'))
watching=validate.watch(s3)
OK=[];BAD=[]
def code(e):
    if isinstance(e,botocore.exceptions.ClientError):
        return f"{e.response['ResponseMetadata'].get('HTTPStatusCode')} {e.response['Error'].get('Code')}: {e.response['Error'].get('Message','')[:90]}"
    return f"{type(e).__name__}: {str(e)[:160]}"
def t(name,f,want=None):
    try: r=f()
    except Exception as e: r="EXC "+code(e)
    ok = (want(r) if callable(want) else True) if want is not None else not str(r).startswith("EXC")
    (OK if ok else BAD).append(name)
    print(f"[{'ok ' if ok else 'BAD'}] {name}: {str(r)[:230]}",flush=True)
    return r
exc=lambda s: (lambda r: str(r).startswith("EXC "+s))
try: s3.create_bucket(Bucket=B)
except Exception as e: print("create_bucket",code(e))
data=os.urandom(1<<20); md5=hashlib.md5(data).hexdigest()
put=lambda k,b=b"x",**kw: s3.put_object(Bucket=B,Key=k,Body=b,**kw)
r=t("put etag=md5", lambda: put("a/1",data)['ETag'], lambda r:r==f'"{md5}"')
t("put returns checksum crc32", lambda: {k:v for k,v in put("a/1",data).items() if k.startswith('Checksum')}, lambda r:'ChecksumCRC32' in str(r) or 'CRC64' in str(r))
t("get etag", lambda: s3.get_object(Bucket=B,Key="a/1")['ETag'], lambda r:r==f'"{md5}"')
t("head checksum mode", lambda: {k:v for k,v in s3.head_object(Bucket=B,Key="a/1",ChecksumMode='ENABLED').items() if k.startswith('Checksum')}, lambda r:'ChecksumCRC' in str(r))
for alg in ("CRC32","CRC32C","SHA1","SHA256","CRC64NVME"):
    t(f"put {alg}", lambda: [v for k,v in put("a/ck",data,ChecksumAlgorithm=alg).items() if k==f'Checksum{alg}'], lambda r:len(r)==1 if isinstance(r,list) else False)
t("put wrong CRC32 -> 400", lambda: put("a/bad",b"hello",ChecksumCRC32=base64.b64encode(b"\0\0\0\1").decode()), exc("400"))
t("put wrong Content-MD5 -> 400", lambda: put("a/bad",b"hello",ContentMD5=base64.b64encode(hashlib.md5(b"zz").digest()).decode()), exc("400"))
t("  bad object absent", lambda: s3.head_object(Bucket=B,Key="a/bad"), exc("404"))
# aws-chunked trailer
def chunked(key, body, crc_ok=True, tname="x-amz-checksum-crc32", signed=False):
    u=f"{EP}/{B}/{key}"
    cs=16384*4; out=b""
    for i in range(0,len(body),cs):
        c=body[i:i+cs]; out+=b"%x\r\n"%len(c)+c+b"\r\n"
    v=base64.b64encode((zlib.crc32(body) if crc_ok else 12345).to_bytes(4,'big')).decode()
    out+=b"0\r\n"+f"{tname}:{v}\r\n\r\n".encode()
    req=AWSRequest("PUT",u,headers={"x-amz-trailer":tname,"content-encoding":"aws-chunked","x-amz-decoded-content-length":str(len(body)),"Content-Length":str(len(out)),"x-amz-sdk-checksum-algorithm":"CRC32"},data=out)
    req.context['checksum']={'request_algorithm':{'in':'trailer','algorithm':'crc32','name':tname}}
    S3SigV4Auth(Credentials(AK,SK),"s3","us-east-1").add_auth(req)
    p=urlparse(EP); h=http.client.HTTPConnection(p.hostname,p.port,timeout=60)
    h.request("PUT",f"/{B}/{key}",body=out,headers=dict(req.headers)); rr=h.getresponse(); bd=rr.read()
    return rr.status, dict((k.lower(),v) for k,v in rr.getheaders()).get(tname), bd[:120]
t("aws-chunked unsigned trailer CRC32", lambda: chunked("a/ch",data), lambda r:r[0]==200)
t("  body decoded", lambda: hashlib.md5(s3.get_object(Bucket=B,Key="a/ch")['Body'].read()).hexdigest()==md5, lambda r:r is True)
t("  content-encoding not stored", lambda: s3.head_object(Bucket=B,Key="a/ch").get('ContentEncoding'), lambda r:r in (None,''))
t("aws-chunked wrong trailer crc -> 400", lambda: chunked("a/ch2",data,crc_ok=False), lambda r:r[0]==400)
# range
t("range 0-9", lambda: (lambda o:(o['ResponseMetadata']['HTTPStatusCode'],o['ContentRange'],o['Body'].read()==data[:10]))(s3.get_object(Bucket=B,Key="a/1",Range="bytes=0-9")), lambda r:r==(206,'bytes 0-9/1048576',True))
t("range suffix -5", lambda: s3.get_object(Bucket=B,Key="a/1",Range="bytes=-5")['Body'].read()==data[-5:], lambda r:r is True)
t("range open 1048570-", lambda: s3.get_object(Bucket=B,Key="a/1",Range="bytes=1048570-")['Body'].read()==data[1048570:], lambda r:r is True)
t("range over end clipped", lambda: len(s3.get_object(Bucket=B,Key="a/1",Range="bytes=1048570-9999999")['Body'].read()), lambda r:r==6)
t("range beyond -> 416", lambda: s3.get_object(Bucket=B,Key="a/1",Range="bytes=2000000-"), exc("416"))
t("GET If-Match ok", lambda: s3.get_object(Bucket=B,Key="a/1",IfMatch=f'"{md5}"')['ContentLength'], lambda r:r==1<<20)
t("GET If-Match bad -> 412", lambda: s3.get_object(Bucket=B,Key="a/1",IfMatch='"00"'), exc("412"))
t("GET If-None-Match same -> 304", lambda: s3.get_object(Bucket=B,Key="a/1",IfNoneMatch=f'"{md5}"'), exc("304"))
t("range+If-Match bad -> 412", lambda: s3.get_object(Bucket=B,Key="a/1",Range="bytes=0-3",IfMatch='"00"'), exc("412"))
# metadata
t("user metadata + headers", lambda: (put("m/1",b"q",Metadata={'mode':'0644','uid':'1000'},ContentType='text/x',CacheControl='no-store'), (lambda o:(o['Metadata'],o['ContentType'],o.get('CacheControl')))(s3.head_object(Bucket=B,Key="m/1")))[1], lambda r:r==({'mode':'0644','uid':'1000'},'text/x','no-store'))
t("metadata gone after overwrite", lambda: (put("m/1",b"q"), s3.head_object(Bucket=B,Key="m/1")['Metadata'])[1], lambda r:r=={})
put("m/1",b"q",Metadata={'mode':'0644'})
t("copy keeps metadata", lambda: (s3.copy_object(Bucket=B,Key="m/2",CopySource=f"{B}/m/1"), s3.head_object(Bucket=B,Key="m/2")['Metadata'])[1], lambda r:r=={'mode':'0644'})
t("copy REPLACE to other key", lambda: (s3.copy_object(Bucket=B,Key="m/3",CopySource=f"{B}/m/1",MetadataDirective='REPLACE',Metadata={'mode':'0755'}), s3.head_object(Bucket=B,Key="m/3")['Metadata'])[1], lambda r:r=={'mode':'0755'})
t("copy REPLACE onto self (chmod)", lambda: (s3.copy_object(Bucket=B,Key="m/1",CopySource=f"{B}/m/1",MetadataDirective='REPLACE',Metadata={'mode':'0600'}), s3.head_object(Bucket=B,Key="m/1")['Metadata'],s3.get_object(Bucket=B,Key="m/1")['Body'].read())[1:], lambda r:r==({'mode':'0600'},b"q"))
t("copy onto self no change -> 400 InvalidRequest", lambda: s3.copy_object(Bucket=B,Key="m/1",CopySource=f"{B}/m/1"), exc("400"))
t("copy source if-match bad -> 412", lambda: s3.copy_object(Bucket=B,Key="m/4",CopySource=f"{B}/m/1",CopySourceIfMatch='"00"'), exc("412"))
t("copy dest If-None-Match * existing -> 412", lambda: s3.copy_object(Bucket=B,Key="m/2",CopySource=f"{B}/m/1",IfNoneMatch='*'), exc("412"))
# conditional put
t("PUT If-None-Match * new", lambda: put("c/1",b"1",IfNoneMatch='*')['ResponseMetadata']['HTTPStatusCode'], lambda r:r==200)
t("PUT If-None-Match * existing -> 412", lambda: put("c/1",b"2",IfNoneMatch='*'), exc("412"))
e1=put("c/1",b"1")['ETag']
t("PUT If-Match good", lambda: put("c/1",b"3",IfMatch=e1)['ResponseMetadata']['HTTPStatusCode'], lambda r:r==200)
t("PUT If-Match stale -> 412", lambda: put("c/1",b"4",IfMatch=e1), exc("412"))
t("  object unchanged (b'3')", lambda: s3.get_object(Bucket=B,Key="c/1")['Body'].read(), lambda r:r==b"3")
t("PUT If-Match absent key -> 404", lambda: put("c/none",b"4",IfMatch=e1), exc("404"))
t("DELETE If-Match stale -> 412", lambda: s3.delete_object(Bucket=B,Key="c/1",IfMatch=e1), exc("412"))
def race(mk):
    win=[];los=[];oth=[]
    bar=threading.Barrier(16)
    def w(i):
        bar.wait()
        try: mk(i); win.append(i)
        except Exception as e: (los if '412' in code(e) or '409' in code(e) else oth).append(code(e))
    th=[threading.Thread(target=w,args=(i,)) for i in range(16)]
    [x.start() for x in th];[x.join() for x in th]
    return len(win),len(los),oth[:1]
t("race 16x PUT If-None-Match * (1 winner), 10 rounds", lambda: [race(lambda i:put(f"c/race{n}",b"%d"%i*2000,IfNoneMatch='*'))[0] for n in range(10)], lambda r:r==[1]*10)
# mpu
P=5<<20; pd=[os.urandom(P),os.urandom(P),os.urandom(100)]
def mpu(key,inm=None,im=None,parts=pd,**kw):
    u=s3.create_multipart_upload(Bucket=B,Key=key,**kw)['UploadId']; ps=[]
    for i,p in enumerate(parts): ps.append({'PartNumber':i+1,'ETag':s3.upload_part(Bucket=B,Key=key,UploadId=u,PartNumber=i+1,Body=p)['ETag']})
    a={}
    if inm: a['IfNoneMatch']=inm
    if im: a['IfMatch']=im
    return s3.complete_multipart_upload(Bucket=B,Key=key,UploadId=u,MultipartUpload={'Parts':ps},**a)
me='"'+hashlib.md5(b"".join(hashlib.md5(p).digest() for p in pd)).hexdigest()+'-3"'
t("mpu etag md5-of-md5s-3", lambda: mpu("p/1",Metadata={'mode':'7'})['ETag'], lambda r:r==me)
t("mpu content+metadata+head etag", lambda: (lambda o:(o['Body'].read()==b"".join(pd),o['Metadata'],o['ETag']==me))(s3.get_object(Bucket=B,Key="p/1")), lambda r:r==(True,{'mode':'7'},True))
t("get PartNumber=2", lambda: s3.get_object(Bucket=B,Key="p/1",PartNumber=2)['Body'].read()==pd[1], lambda r:r is True)
t("complete If-None-Match * existing -> 412", lambda: mpu("p/1",inm='*'), exc("412"))
t("complete If-None-Match * new", lambda: mpu("p/new",inm='*')['ETag'], lambda r:r==me)
t("complete If-Match stale -> 412", lambda: mpu("p/1",im='"00"'), exc("412"))
t("complete If-Match good", lambda: mpu("p/1",im=me)['ETag'], lambda r:r==me)
def upc():
    u=s3.create_multipart_upload(Bucket=B,Key="p/2")['UploadId']
    r1=s3.upload_part_copy(Bucket=B,Key="p/2",UploadId=u,PartNumber=1,CopySource=f"{B}/p/1",CopySourceRange=f"bytes=0-{P-1}")['CopyPartResult']['ETag']
    r2=s3.upload_part(Bucket=B,Key="p/2",UploadId=u,PartNumber=2,Body=b"tail")['ETag']
    s3.complete_multipart_upload(Bucket=B,Key="p/2",UploadId=u,MultipartUpload={'Parts':[{'PartNumber':1,'ETag':r1},{'PartNumber':2,'ETag':r2}]})
    return s3.get_object(Bucket=B,Key="p/2")['Body'].read()==pd[0]+b"tail", r1==f'"{hashlib.md5(pd[0]).hexdigest()}"'
t("UploadPartCopy w/ range", upc, lambda r:r==(True,True))
t("mpu bad part etag -> InvalidPart", lambda: (lambda u:(s3.upload_part(Bucket=B,Key="p/3",UploadId=u,PartNumber=1,Body=b"z"),s3.complete_multipart_upload(Bucket=B,Key="p/3",UploadId=u,MultipartUpload={'Parts':[{'PartNumber':1,'ETag':'"00000000000000000000000000000000"'}]})))(s3.create_multipart_upload(Bucket=B,Key="p/3")['UploadId']), exc("400"))
t("mpu small non-last part -> EntityTooSmall", lambda: mpu("p/4",parts=[b"a",b"b"]), exc("400"))
def ab():
    u=s3.create_multipart_upload(Bucket=B,Key="p/5")['UploadId']; s3.upload_part(Bucket=B,Key="p/5",UploadId=u,PartNumber=1,Body=b"z")
    l=[x['UploadId']==u for x in s3.list_multipart_uploads(Bucket=B,Prefix="p/5").get('Uploads',[])]
    lp=len(s3.list_parts(Bucket=B,Key="p/5",UploadId=u).get('Parts',[]))
    s3.abort_multipart_upload(Bucket=B,Key="p/5",UploadId=u)
    try: s3.upload_part(Bucket=B,Key="p/5",UploadId=u,PartNumber=2,Body=b"z"); aft="accepted"
    except Exception as e: aft=code(e)[:20]
    return any(l),lp,aft
t("list_mpu/list_parts/abort", ab, lambda r:r[0] and r[1]==1 and '404' in str(r[2]))
t("mpu CRC64NVME full object", lambda: {k:v for k,v in mpu("p/6",ChecksumAlgorithm='CRC64NVME',ChecksumType='FULL_OBJECT').items() if 'Checksum' in k}, lambda r:'ChecksumCRC64NVME' in str(r))
# list
for i in range(25): put(f"l/d{i%5}/{i:03d}",b"")
put("l/file",b""); put("l/d1.txt",b"") ; put("l/d1-x",b"")
def lst(**kw): return s3.list_objects_v2(Bucket=B,**kw)
t("delimiter (order, prefixes)", lambda: (lambda r:([p['Prefix'] for p in r.get('CommonPrefixes',[])],[c['Key'] for c in r.get('Contents',[])]))(lst(Prefix="l/",Delimiter="/")), lambda r:r==(['l/d0/','l/d1/','l/d2/','l/d3/','l/d4/'],['l/d1-x','l/d1.txt','l/file']))
def pg(mk,**kw):
    ks=[];ps=[];tok=None;n=0
    while n<60:
        a=dict(kw,MaxKeys=mk)
        if tok:a['ContinuationToken']=tok
        r=lst(**a);n+=1
        ks+=[c['Key'] for c in r.get('Contents',[])];ps+=[p['Prefix'] for p in r.get('CommonPrefixes',[])]
        if not r.get('IsTruncated'): break
        tok=r['NextContinuationToken']
    return ks,ps,n
t("paginate 7", lambda: (lambda x:(len(x[0]),x[0]==sorted(x[0]),x[2]))(pg(7,Prefix="l/")), lambda r:r==(28,True,4))
t("paginate delimiter 2 (prefix counted in MaxKeys, none twice)", lambda: (lambda x:(len(x[0]),x[1],x[2]))(pg(2,Prefix="l/",Delimiter="/")), lambda r:r==(3,['l/d0/','l/d1/','l/d2/','l/d3/','l/d4/'],4))
t("StartAfter", lambda: [c['Key'] for c in lst(Prefix="l/",StartAfter="l/d4/014").get('Contents',[])], lambda r:r==['l/d4/019','l/d4/024','l/file'])
t("StartAfter+delimiter", lambda: (lambda r:([p['Prefix'] for p in r.get('CommonPrefixes',[])],[c['Key'] for c in r.get('Contents',[])]))(lst(Prefix="l/",Delimiter="/",StartAfter="l/d3/zzz")), lambda r:r==(['l/d4/'],['l/file']))
t("prefix not on / boundary", lambda: [c['Key'] for c in lst(Prefix="l/d1",Delimiter="/").get('Contents',[])], lambda r:r==['l/d1-x','l/d1.txt'])
t("non-/ delimiter", lambda: [p['Prefix'] for p in lst(Prefix="l/d1",Delimiter=".").get('CommonPrefixes',[])], lambda r:r==['l/d1.'])
t("max-keys 0", lambda: lst(MaxKeys=0)['KeyCount'], lambda r:r==0)
t("list etag+size+lastmod", lambda: (lambda c:(c['ETag']==f'"{md5}"',c['Size'],c.get('StorageClass'),c['LastModified'].microsecond))(lst(Prefix="a/1")['Contents'][0]), lambda r:r[0] is True and r[1]==1<<20)
# odd keys
def odd(k):
    put(k,b"v"); g=s3.get_object(Bucket=B,Key=k)['Body'].read(); l=[c['Key'] for c in lst(Prefix=k).get('Contents',[])]
    s3.delete_object(Bucket=B,Key=k); return g==b"v" and k in l
for k in ["o/dir/","o/a b+c%20d","o/ünï/日本","o/..x","o/a//b","o/q?x=1&y=2#z","o/"+"n"*300,"o/back\\slash","o/tab\tx","o/trail.","o/%2F"]:
    t("odd key %r"%k[:22], lambda: odd(k), lambda r:r is True)
t("file & dir same name (o2, o2/x)", lambda: (put("o2",b"f"),put("o2/x",b"g"),[c['Key'] for c in lst(Prefix="o2")['Contents']])[2], lambda r:r==['o2','o2/x'])
t("key with ../ is refused or kept as a key", lambda: put("../../../escape",b"x")['ResponseMetadata']['HTTPStatusCode'], lambda r: r==200 or "400" in str(r))
# delete
t("DeleteObjects 1000 quiet", lambda: (lambda r:(len(r.get('Deleted',[])),len(r.get('Errors',[]))))(s3.delete_objects(Bucket=B,Delete={'Objects':[{'Key':f"l/d{i%5}/{i:03d}"} for i in range(1000)],'Quiet':False})), lambda r:r==(1000,0))
t("  gone", lambda: lst(Prefix="l/")['KeyCount'], lambda r:r==3)
t("delete absent -> 204", lambda: s3.delete_object(Bucket=B,Key="nope")['ResponseMetadata']['HTTPStatusCode'], lambda r:r==204)
t("get absent NoSuchKey", lambda: s3.get_object(Bucket=B,Key="nope"), exc("404 NoSuchKey"))
t("no bucket NoSuchBucket", lambda: s3.list_objects_v2(Bucket="no-such-bucket-q"), exc("404 NoSuchBucket"))
# presign
pu=s3.generate_presigned_url("put_object",Params={'Bucket':B,'Key':'ps/1'},ExpiresIn=60)
def http_(m,u,b=None):
    try:
        q=urllib.request.Request(u,data=b,method=m); q.add_header("Content-Type","")
        x=urllib.request.urlopen(q,timeout=30); return x.status,x.read()[:20]
    except urllib.error.HTTPError as e: return e.code,e.read()[:150]
t("presigned PUT", lambda: http_("PUT",pu,b"hey"), lambda r:r[0]==200)
gu=s3.generate_presigned_url("get_object",Params={'Bucket':B,'Key':'ps/1'},ExpiresIn=60)
t("presigned GET", lambda: http_("GET",gu), lambda r:r==(200,b"hey"))
t("presigned tampered -> 403", lambda: http_("GET",gu.replace("ps/1","a/1")), lambda r:r[0]==403)
gu1=s3.generate_presigned_url("get_object",Params={'Bucket':B,'Key':'ps/1'},ExpiresIn=1)
time.sleep(2.5); t("presigned expired -> 403", lambda: http_("GET",gu1), lambda r:r[0]==403)
t("anonymous -> 403", lambda: http_("GET",f"{EP}/{B}/ps/1"), lambda r:r[0] in (401,403))
bad=boto3.client("s3",endpoint_url=EP,region_name="us-east-1",aws_access_key_id=AK,aws_secret_access_key="wrong",config=Config(s3={'addressing_style':'path'},retries={'max_attempts':1}))
t("bad secret -> 403", lambda: bad.list_objects_v2(Bucket=B), exc("403"))
# sse, tags, misc
t("SSE AES256 echoed", lambda: put("e/1",b"q",ServerSideEncryption='AES256').get('ServerSideEncryption'), lambda r:r=='AES256')
t("SSE-KMS echoed", lambda: (lambda o:(o.get('ServerSideEncryption'),o.get('SSEKMSKeyId')))(put("e/2",b"q",ServerSideEncryption='aws:kms',SSEKMSKeyId='arn:aws:kms:us-east-1:123456789012:key/abc')), lambda r:r[0]=='aws:kms')
t("object tagging", lambda: (put("e/3",b"q",Tagging="a=b"),s3.get_object_tagging(Bucket=B,Key="e/3")['TagSet'])[1], lambda r:r==[{'Key':'a','Value':'b'}])
t("versioning enable", lambda: (s3.create_bucket(Bucket=f"{B}-v"),s3.put_bucket_versioning(Bucket=f"{B}-v",VersioningConfiguration={'Status':'Enabled'}),s3.put_object(Bucket=f"{B}-v",Key="k",Body=b"1").get('VersionId'))[2], lambda r:r and not str(r).startswith("EXC"))
t("get_object_attributes", lambda: s3.get_object_attributes(Bucket=B,Key="p/1",ObjectAttributes=['ETag','ObjectSize','ObjectParts'])['ObjectSize'], lambda r:isinstance(r,int))
t("rename_object", lambda: s3.rename_object(Bucket=B,Key="e/9",RenameSource=f"{B}/e/1")['ResponseMetadata']['HTTPStatusCode'])
t("append WriteOffsetBytes", lambda: put("e/1",b"more",WriteOffsetBytes=1)['ResponseMetadata']['HTTPStatusCode'])
t("lifecycle abort-mpu", lambda: s3.put_bucket_lifecycle_configuration(Bucket=B,LifecycleConfiguration={'Rules':[{'ID':'x','Status':'Enabled','Filter':{'Prefix':''},'AbortIncompleteMultipartUpload':{'DaysAfterInitiation':1}}]})['ResponseMetadata']['HTTPStatusCode'])
t("head_bucket region hdr", lambda: s3.head_bucket(Bucket=B)['ResponseMetadata']['HTTPHeaders'].get('x-amz-bucket-region'))
t("put overwrites while read (old content or new, no mix)", lambda: (lambda: [ (put("w/1",bytes([65])*(8<<20)), (lambda o:(put("w/1",bytes([66])*(8<<20)), len(set(o['Body'].read())))[1])(s3.get_object(Bucket=B,Key="w/1")))[1] for _ in range(2)])(), lambda r:r==[1,1])
t("every reply is as botocore's model of S3 has it", lambda: watching.problems[:3], lambda r:r==[])
print(f"SUMMARY {EP}: {len(OK)} ok, {len(BAD)} bad: {BAD}")
print(watching.report())
