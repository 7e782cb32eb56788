# Its end comes first, before anything can go wrong.
echo @DEADLINE@ >/etc/ec2mpi/deadline
cat >/opt/ec2mpi/bin/ec2mpi-deadline <<'EC2MPI_END'
@DEADLINE_SCRIPT@
EC2MPI_END
chmod 755 /opt/ec2mpi/bin/ec2mpi-deadline
if [ -d /run/systemd/system ]; then
    cat >/etc/systemd/system/ec2mpi-deadline.service <<'EC2MPI_END'
@DEADLINE_UNIT@
EC2MPI_END
fi
keep ec2mpi-deadline ec2mpi-deadline

