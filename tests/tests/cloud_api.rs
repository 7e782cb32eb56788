//! The cloud's EC2 API as boto3 and the aws command line see it, every reply checked against botocore's models.

use ec2mpi_tests::outcome::Running;
use ec2mpi_tests::place;
use ec2mpi_tests::site::Site;
use ec2mpi_tests::wait::seconds;

#[test]
fn strangers_find_what_the_models_promise() {
    let site = Site::new();
    site.start_cloud(&[]);
    let mut command = site.command_of(&place::python(), &[]);
    command.arg(place::program("cloud_api.py")).arg(site.path("cloud/cloud.json"));
    command.arg(place::executable("ec2mpi")).arg(place::aws());
    let outcome = Running::start(command, &site.path("output")).wait(seconds(200));
    println!("{}", outcome.stdout);
    assert_eq!(outcome.code, 0, "{outcome}");
    assert!(outcome.stdout.contains(" 0 problems"), "{outcome}");
}
