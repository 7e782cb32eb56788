//! The provider against two servers of the EC2 API: the local cloud, which has to behave as EC2 does, and moto, written
//! by others. What each does otherwise is listed here by name, and the list has to be exact.

// A test that fails may panic.
#![allow(clippy::unwrap_used)]

use std::collections::BTreeMap;
use std::time::Duration;

use base64::prelude::{BASE64_STANDARD, Engine};
use ec2mpi::provider::ec2::{Ec2Provider, Ec2Settings};
use ec2mpi::provider::{Instance, InstanceState, LaunchRequest, Provider, ProviderError, tag};
use ec2mpi_proto::id::{ClusterId, InstanceId, LaunchId};
use ec2mpi_tests::ec2_server::Ec2Server;
use ec2mpi_tests::site::Site;
use serde_json::{Value, json};

/// A scenario, and what a server does instead.
type Difference = (&'static str, &'static str);

/// What moto does otherwise than EC2 (moto 5.2.5).
const MOTO_DIFFERS: &[Difference] = &[
    ("at most what is asked for: 1 to 3 gives 3", "launches MinCount"),
    ("the same token gives the same machines", "launches again"),
    ("the same token with other words is refused", "launches again"),
    ("the token of ended machines is of no more use", "launches again"),
    ("more at least than at most is refused", "launches MinCount"),
    ("an unknown image is refused", "launches it"),
    ("an unknown type is refused", "launches it"),
    ("a type of another architecture than the image is refused", "launches it"),
    ("user-data over 16 KiB is refused", "takes it"),
    ("a wrong key is not let in", "checks no signature"),
];

/// What the local cloud does otherwise than EC2: nothing of this.
const LOCAL_DIFFERS: &[Difference] = &[];

/// Why a scenario did not hold.
type Verdict = Result<(), String>;

/// A name, under which a difference is listed, and what has to hold.
type Scenario = (&'static str, fn(&Bench) -> Verdict);

/// How long a server may take to show what it did, and how often it is asked.
const LIMIT: Duration = Duration::from_secs(20);
const PAUSE: Duration = Duration::from_millis(50);

struct Bench {
    server: Ec2Server,
    provider: Ec2Provider,
    /// The same, with so few machines a page that there are many pages.
    leafing: Ec2Provider,
    runtime: tokio::runtime::Runtime,
    /// Launches in the scenario with pages: each is a reservation.
    reservations: u32,
}

impl Bench {
    fn new(server: Ec2Server, reservations: u32) -> Self {
        let runtime = tokio::runtime::Runtime::new().unwrap();
        let settings = Ec2Settings {
            region: server.region.clone(),
            endpoint: Some(server.endpoint.clone()),
            credentials: Some((server.access_key.clone(), server.secret_key.clone())),
        };
        let provider = runtime.block_on(Ec2Provider::connect(&settings));
        Self { leafing: provider.clone().with_page_size(5), provider, runtime, server, reservations }
    }

    fn request(&self, cluster: &ClusterId, count: u32) -> LaunchRequest {
        let launch = LaunchId::random();
        let tags = [
            (tag::CLUSTER.to_owned(), "demo".to_owned()),
            (tag::CLUSTER_ID.to_owned(), cluster.to_string()),
            (tag::LAUNCH_ID.to_owned(), launch.to_string()),
        ];
        LaunchRequest {
            launch,
            min: count,
            max: count,
            image: self.server.image.clone(),
            instance_type: self.server.instance_type.clone(),
            subnet: Some(self.server.subnet.clone()),
            security_groups: vec![self.server.security_group.clone()],
            instance_profile: Some("ec2mpi-node".to_owned()),
            user_data: "#!/bin/sh\necho here\n".to_owned(),
            tags: tags.into(),
        }
    }

    fn launch(&self, request: &LaunchRequest) -> Result<Vec<Instance>, ProviderError> {
        self.runtime.block_on(self.provider.launch(request))
    }

    fn describe(&self, cluster: &ClusterId) -> Result<Vec<Instance>, String> {
        self.runtime.block_on(self.provider.describe(cluster)).map_err(|error| error.to_string())
    }

    /// The machines of a cluster, once so many are listed: a list may lag behind a launch.
    fn listed(&self, cluster: &ClusterId, count: usize) -> Result<Vec<Instance>, String> {
        self.until(|| {
            let found = self.describe(cluster)?;
            Ok(if found.len() >= count { Ok(found) } else { Err(format!("{} of {count} are listed", found.len())) })
        })
    }

    /// What `look` finds, within a bounded time.
    fn until<T>(&self, look: impl Fn() -> Result<Result<T, String>, String>) -> Result<T, String> {
        let begun = std::time::Instant::now();
        loop {
            match look()? {
                Ok(found) => return Ok(found),
                Err(why) if begun.elapsed() > LIMIT => return Err(why),
                Err(_) => std::thread::sleep(PAUSE),
            }
        }
    }

    fn terminate(&self, ids: &[InstanceId]) -> Result<(), ProviderError> {
        self.runtime.block_on(self.provider.terminate(ids))
    }

    /// Launches, lets `look` judge the machines, and ends them.
    fn with(&self, request: &LaunchRequest, look: impl FnOnce(&[Instance]) -> Verdict) -> Verdict {
        let made = self.launch(request).map_err(|error| error.to_string())?;
        let verdict = look(&made);
        let ids: Vec<_> = made.into_iter().map(|one| one.id).collect();
        self.terminate(&ids).map_err(|error| error.to_string())?;
        verdict
    }

    /// What boto3 sees of one new machine: itself and its attributes.
    fn seen(&self, look: impl FnOnce(&LaunchRequest, &Value) -> Verdict) -> Verdict {
        let cluster = ClusterId::random();
        let request = self.request(&cluster, 1);
        self.with(&request, |made| {
            self.listed(&cluster, 1)?;
            let told = self.server.call("ec2", "describe_instances", &json!({"InstanceIds": [made[0].id.to_string()]}));
            look(&request, &told["Reservations"][0]["Instances"][0])
        })
    }

    fn attribute(&self, instance: &Value, name: &str) -> Value {
        let asked = json!({"InstanceId": instance["InstanceId"], "Attribute": name});
        self.server.call("ec2", "describe_instance_attribute", &asked)
    }

    /// That a launch is refused in these words. What comes up all the same is ended.
    fn refused(&self, code: &str, change: impl FnOnce(&mut LaunchRequest)) -> Verdict {
        let mut request = self.request(&ClusterId::random(), 1);
        change(&mut request);
        match self.launch(&request) {
            Err(ProviderError::Refused(why)) if why.contains(code) => Ok(()),
            Err(other) => Err(format!("{other}")),
            Ok(made) => {
                let ids: Vec<_> = made.iter().map(|one| one.id.clone()).collect();
                self.terminate(&ids).map_err(|error| error.to_string())?;
                Err(format!("accepted: {} machines", made.len()))
            }
        }
    }
}

fn holds(condition: bool, otherwise: impl std::fmt::Display) -> Verdict {
    if condition { Ok(()) } else { Err(otherwise.to_string()) }
}

/// All of them.
const SCENARIOS: &[Scenario] = &[
    ("tags are on the instance", |bench| {
        bench.seen(|request, told| {
            let tags = told["Tags"].as_array().into_iter().flatten();
            let found: BTreeMap<_, _> = tags
                .map(|tag| (tag["Key"].as_str().unwrap().to_owned(), tag["Value"].as_str().unwrap().to_owned()))
                .collect();
            holds(found == request.tags, format!("{found:?}"))
        })
    }),
    ("metadata only with a token, not from beyond the machine", |bench| {
        bench.seen(|_, told| {
            let options = &told["MetadataOptions"];
            let as_asked = options["HttpTokens"] == "required" && options["HttpPutResponseHopLimit"] == 1;
            holds(as_asked && options["HttpEndpoint"] == "enabled", options)
        })
    }),
    ("a shutdown of its own terminates it", |bench| {
        bench.seen(|_, told| {
            let found = bench.attribute(told, "instanceInitiatedShutdownBehavior");
            holds(found["InstanceInitiatedShutdownBehavior"]["Value"] == "terminate", found)
        })
    }),
    ("user-data arrives byte for byte", |bench| {
        bench.seen(|request, told| {
            let found = bench.attribute(told, "userData");
            let bytes = BASE64_STANDARD.decode(found["UserData"]["Value"].as_str().unwrap_or_default());
            holds(bytes.is_ok_and(|bytes| bytes == request.user_data.as_bytes()), found)
        })
    }),
    ("subnet, group, profile, type and image are those asked for", |bench| {
        bench.seen(|request, told| {
            let profile = told["IamInstanceProfile"]["Arn"].as_str().unwrap_or_default();
            let as_asked = told["SubnetId"] == request.subnet.as_deref().unwrap()
                && told["SecurityGroups"][0]["GroupId"] == request.security_groups[0].as_str()
                && profile.ends_with(":instance-profile/ec2mpi-node")
                && told["InstanceType"] == request.instance_type.as_str()
                && told["ImageId"] == request.image.as_str();
            holds(as_asked, told)
        })
    }),
    ("the token of the call is shown", |bench| {
        bench.seen(|request, told| holds(told["ClientToken"] == request.launch.as_str(), &told["ClientToken"]))
    }),
    ("machines of a launch are numbered from 0 and have addresses", |bench| {
        let cluster = ClusterId::random();
        bench.with(&bench.request(&cluster, 3), |made| {
            let numbers: Vec<_> = made.iter().map(|one| one.launch_index).collect();
            let addresses = bench.listed(&cluster, 3)?.iter().filter(|one| one.address.is_some()).count();
            holds(numbers == [0, 1, 2] && addresses == 3, format!("{numbers:?}, {addresses} addresses"))
        })
    }),
    ("at most what is asked for: 1 to 3 gives 3", |bench| {
        let request = LaunchRequest { min: 1, ..bench.request(&ClusterId::random(), 3) };
        bench.with(&request, |made| holds(made.len() == 3, format!("{} machines", made.len())))
    }),
    ("the same token gives the same machines", |bench| {
        let cluster = ClusterId::random();
        let request = bench.request(&cluster, 2);
        let first = bench.launch(&request).map_err(|error| error.to_string())?;
        let second = bench.launch(&request).map_err(|error| error.to_string())?;
        let all = bench.listed(&cluster, 2)?;
        let ids: Vec<_> = all.iter().map(|one| one.id.clone()).collect();
        bench.terminate(&ids).map_err(|error| error.to_string())?;
        let same = |a: &[Instance], b: &[Instance]| a.iter().map(|one| &one.id).eq(b.iter().map(|one| &one.id));
        holds(same(&first, &second) && all.len() == 2, format!("{} machines", all.len()))
    }),
    ("the same token with other words is refused", |bench| {
        let request = bench.request(&ClusterId::random(), 1);
        bench.with(&request, |_| {
            bench.refused("IdempotentParameterMismatch", |other| {
                other.launch = request.launch.clone();
                other.user_data.push_str("# more\n");
            })
        })
    }),
    ("the token of ended machines is of no more use", |bench| {
        let cluster = ClusterId::random();
        let request = bench.request(&cluster, 1);
        bench.with(&request, |_| Ok(()))?;
        ended(bench, &cluster)?;
        match bench.launch(&request) {
            Ok(made) if made.iter().all(|one| !one.state.is_alive()) => Ok(()),
            Err(ProviderError::Gone(_)) => Ok(()),
            Err(other) => Err(other.to_string()),
            Ok(made) => {
                bench.terminate(&made.into_iter().map(|one| one.id).collect::<Vec<_>>()).map_err(|e| e.to_string())?;
                Err("launched again".to_owned())
            }
        }
    }),
    ("more at least than at most is refused", |bench| bench.refused("Invalid", |request| request.min = 2)),
    ("an unknown image is refused", |bench| {
        bench.refused("InvalidAMIID", |request| request.image = "ami-0123456789abcdef0".to_owned())
    }),
    ("an unknown type is refused", |bench| {
        bench.refused("Invalid", |request| request.instance_type = "x1.none".to_owned())
    }),
    ("a type of another architecture than the image is refused", |bench| {
        bench.refused("Invalid", |request| request.instance_type = "c7g.xlarge".to_owned())
    }),
    ("an unknown subnet is refused", |bench| {
        bench
            .refused("InvalidSubnetID.NotFound", |request| request.subnet = Some("subnet-0123456789abcdef0".to_owned()))
    }),
    ("an unknown security group is refused", |bench| {
        bench.refused("InvalidGroup.NotFound", |request| {
            request.security_groups = vec!["sg-0123456789abcdef0".to_owned()]
        })
    }),
    ("user-data over 16 KiB is refused", |bench| {
        bench.refused("Invalid", |request| request.user_data = format!("#!/bin/sh\n#{}", "x".repeat(16 << 10)))
    }),
    ("only the machines of a cluster are listed", |bench| {
        let (mine, other) = (ClusterId::random(), ClusterId::random());
        bench.with(&bench.request(&mine, 2), |made| {
            bench.with(&bench.request(&other, 1), |_| {
                let listed = bench.listed(&mine, 2)?;
                let none = bench.describe(&ClusterId::random())?;
                let same = listed.len() == 2 && listed.iter().all(|one| made.iter().any(|made| made.id == one.id));
                holds(same && none.is_empty(), format!("{listed:?} {none:?}"))
            })
        })
    }),
    ("every page of a list is read", |bench| {
        let cluster = ClusterId::random();
        let launches = (0..bench.reservations).map(|_| bench.launch(&bench.request(&cluster, 1)));
        let made: Vec<_> = launches.collect::<Result<Vec<_>, _>>().map_err(|error| error.to_string())?;
        let ids: Vec<_> = made.into_iter().flatten().map(|one| one.id).collect();
        let listed = bench.listed(&cluster, bench.reservations as usize)?.len();
        let leafed = bench.runtime.block_on(bench.leafing.describe(&cluster)).map_err(|error| error.to_string())?.len();
        bench.terminate(&ids).map_err(|error| error.to_string())?;
        let wanted = bench.reservations as usize;
        holds(ids.len() == wanted && listed == wanted && leafed == wanted, format!("{listed} and {leafed} of {wanted}"))
    }),
    ("gone machines do not keep the others from being ended, twice over", |bench| {
        let cluster = ClusterId::random();
        let request = bench.request(&cluster, 2);
        let made = bench.launch(&request).map_err(|error| error.to_string())?;
        let mut ids: Vec<InstanceId> = made.into_iter().map(|one| one.id).collect();
        ids.insert(1, "i-0123456789abcdef0".parse().unwrap());
        for _ in 0..2 {
            bench.terminate(&ids).map_err(|error| error.to_string())?;
        }
        bench.terminate(&ids[1..2]).map_err(|error| error.to_string())?;
        let alive = bench.describe(&cluster)?.into_iter().filter(|one| one.state.is_alive()).count();
        holds(alive == 0, format!("{alive} live on"))
    }),
    ("an ended machine says why", |bench| {
        let cluster = ClusterId::random();
        bench.with(&bench.request(&cluster, 1), |_| Ok(()))?;
        let last = ended(bench, &cluster)?;
        holds(last.reason.contains("User"), format!("{last:?}"))
    }),
    ("types tell cores and architecture; unknown ones do not exist", |bench| {
        let name = &bench.server.instance_type;
        let facts = bench.runtime.block_on(bench.provider.instance_type(name)).map_err(|error| error.to_string())?;
        let unknown = bench.runtime.block_on(bench.provider.instance_type("x1.none"));
        let is_refused = matches!(unknown, Err(ProviderError::Refused(_)));
        let known = facts.cores > 0 && ["x86_64", "aarch64"].contains(&facts.architecture.as_str());
        holds(known && is_refused, format!("{facts:?} {unknown:?}"))
    }),
    ("a subnet tells its address block; unknown ones do not exist", |bench| {
        let block = bench.runtime.block_on(bench.provider.subnet_block(&bench.server.subnet));
        let unknown = bench.runtime.block_on(bench.provider.subnet_block("subnet-0123456789abcdef0"));
        let known = block.as_ref().is_ok_and(|block| block.contains('/'));
        holds(known && matches!(unknown, Err(ProviderError::Refused(_))), format!("{block:?} {unknown:?}"))
    }),
    ("a wrong key is not let in", |bench| {
        let settings = Ec2Settings {
            region: bench.server.region.clone(),
            endpoint: Some(bench.server.endpoint.clone()),
            credentials: Some((bench.server.access_key.clone(), "wrong".to_owned())),
        };
        let stranger = bench.runtime.block_on(Ec2Provider::connect(&settings));
        let answer = bench.runtime.block_on(stranger.describe(&ClusterId::random()));
        holds(matches!(answer, Err(ProviderError::Unauthorized(_))), format!("{answer:?}"))
    }),
];

/// The one machine of a cluster, once it has ended.
fn ended(bench: &Bench, cluster: &ClusterId) -> Result<Instance, String> {
    bench.until(|| {
        let found = bench.describe(cluster)?.into_iter().find(|one| one.state == InstanceState::Terminated);
        Ok(found.ok_or_else(|| "it does not end".to_owned()))
    })
}

fn verdicts(bench: &Bench) -> Vec<Verdict> {
    SCENARIOS.iter().map(|(_, scenario)| scenario(bench)).collect()
}

#[test]
fn the_provider_on_the_local_cloud_and_on_moto() {
    let site = Site::new();
    // Each is a real machine there.
    let reservations = if std::env::var_os("EC2MPI_SOAK").is_some() { 105 } else { 12 };
    let local = Bench::new(Ec2Server::local(&site, &["--settle", "0"]), reservations);
    let (server, _process) = Ec2Server::moto(&site.path("output"));
    let moto = Bench::new(server, 105);
    let columns = [(&local, LOCAL_DIFFERS), (&moto, MOTO_DIFFERS)];
    let found = columns.map(|(bench, _)| verdicts(bench));

    let mark = |verdict: &Verdict| if verdict.is_ok() { "as EC2" } else { "differs" };
    println!("{:<68}{:<14}{}", "scenario", local.server.name, moto.server.name);
    for (row, (name, _)) in SCENARIOS.iter().enumerate() {
        println!("{name:<68}{:<14}{}", mark(&found[0][row]), mark(&found[1][row]));
    }
    for ((bench, listed), verdicts) in columns.iter().zip(&found) {
        let server = bench.server.name;
        let differing: Vec<_> =
            SCENARIOS.iter().zip(verdicts).filter_map(|((name, _), v)| Some((*name, v.as_ref().err()?))).collect();
        differing.iter().for_each(|(name, why)| println!("{server}: {name}: {why}"));
        let names: Vec<_> = differing.iter().map(|(name, _)| *name).collect();
        let is_listed = |name: &str| listed.iter().any(|(one, _)| *one == name);
        let new: Vec<_> = differing.iter().filter(|(name, _)| !is_listed(name)).collect();
        let mended: Vec<_> = listed.iter().filter(|(name, _)| !names.contains(name)).collect();
        assert!(new.is_empty(), "{server} differs in what is not listed: {new:#?}");
        assert!(mended.is_empty(), "{server} no longer differs in what is listed: {mended:#?}");
    }
}
