"""Creates a cluster, runs a program on it, destroys it: the same API as the command line's. client.py SOCKET"""

import sys

import grpc
from ec2mpi.v1 import control_pb2 as api
from ec2mpi.v1 import control_pb2_grpc

# A socket's path is no host name; HTTP/2 servers insist on one.
options = [("grpc.default_authority", "localhost")]
control = control_pb2_grpc.ControlServiceStub(grpc.insecure_channel(f"unix:{sys.argv[1]}", options))
control.CreateCluster(api.CreateClusterRequest(name="script", nodes=2))
for cluster in control.WatchCluster(api.WatchClusterRequest(name="script")):
    print("nodes", sorted(api.Node.State.Name(node.state) for node in cluster.nodes), file=sys.stderr)
assert cluster.state == api.Cluster.READY, cluster.message
for event in control.RunJob(api.RunJobRequest(cluster="script", ranks=4, program="hostname")):
    if event.HasField("output"):
        (sys.stderr if event.output.stderr else sys.stdout).write(event.output.data.decode())
print("exit code", event.ended.exit_code)
control.DestroyCluster(api.DestroyClusterRequest(name="script"))
for cluster in control.WatchCluster(api.WatchClusterRequest(name="script", follow=True)):
    pass
print(cluster.proof.terminated, "terminated,", cluster.proof.remaining, "left")
