//! The words of `cloud fault add`.

use clap::{Args, Subcommand, ValueEnum};
use jiff::{SignedDuration, Timestamp};

use crate::faults::{
    Bounds, Capacity, Chance, Cut, Ec2Failure, Ec2Fault, Kind, MachineFault, Mishap, Rate, S3Failure, S3Fault, Settle,
    Target, Throttle,
};
use crate::fleet::InstanceId;

/// Arguments of `cloud fault add`.
#[derive(Debug, Args)]
pub(in crate::command) struct AddArgs {
    #[command(subcommand)]
    what: What,
    #[command(flatten)]
    limits: Limits,
}

/// How often; of machines only the words of their own count.
#[derive(Debug, Args)]
#[command(next_help_heading = "How often (not for faults of one machine)")]
struct Limits {
    /// Over after so many strikes.
    #[arg(long, global = true, value_name = "N")]
    count: Option<u64>,
    /// Spare the first so many.
    #[arg(long, global = true, value_name = "N", default_value_t = 0)]
    skip: u64,
    /// Over after this time, such as 500ms, 30s or 5m.
    #[arg(long = "for", global = true, value_name = "TIME", value_parser = milliseconds)]
    lasts: Option<u32>,
    /// Strike by chance, with this probability from 0 to 1.
    #[arg(long, global = true, value_name = "P", value_parser = probability)]
    probability: Option<f64>,
    /// Of the chance: the same requests meet the same strikes.
    #[arg(long, global = true, value_name = "N", default_value_t = 1)]
    seed: u64,
}

#[derive(Debug, Subcommand)]
enum What {
    /// So many machines are left: a launch gets fewer, or InsufficientInstanceCapacity.
    Capacity {
        left: u32,
        /// Of this zone only.
        #[arg(long)]
        zone: Option<String>,
        /// Of this instance type only.
        #[arg(long = "type", value_name = "TYPE")]
        instance_type: Option<String>,
    },
    /// Count requests strictly: RequestLimitExceeded when there are too many; as AWS does unless told otherwise.
    Throttle {
        /// RunInstances, DescribeInstances ...; every action has a bucket of its own.
        #[arg(long)]
        action: Option<String>,
        /// Requests at once.
        #[arg(long, value_name = "N", requires = "refill")]
        burst: Option<f64>,
        /// Requests a second after that.
        #[arg(long, value_name = "N", requires = "burst")]
        refill: Option<f64>,
    },
    /// A request to the EC2 API is not done and answered with an error.
    Ec2Error {
        /// EC2's code.
        #[arg(default_value = "InternalError")]
        code: String,
        #[arg(long)]
        action: Option<String>,
    },
    /// A request to the EC2 API is done, and its answer is lost.
    Ec2Lost {
        #[arg(long)]
        action: Option<String>,
        /// What comes instead: the connection is closed, or status 500.
        #[arg(long, value_enum, default_value = "nothing")]
        answer: Instead,
    },
    /// New instances take long to be listed, and to run.
    Settle {
        /// Not listed for this time.
        #[arg(long, value_name = "TIME", value_parser = milliseconds, default_value = "0s")]
        hidden: u32,
        /// Pending for this time at least.
        #[arg(long, value_name = "TIME", value_parser = milliseconds, default_value = "0s")]
        pending: u32,
    },
    /// A machine never boots: running, says EC2, and nothing runs in it.
    NeverBoots {
        #[command(flatten)]
        who: Who,
        /// It stays pending instead.
        #[arg(long)]
        pending: bool,
    },
    /// A machine boots and does not run its user-data.
    NeverJoins {
        #[command(flatten)]
        who: Who,
    },
    /// A machine is gone from one moment to the next (Server.InternalError).
    Dies {
        #[command(flatten)]
        who: Who,
        #[command(flatten)]
        when: When,
    },
    /// A machine reboots.
    Reboots {
        #[command(flatten)]
        who: Who,
        #[command(flatten)]
        when: When,
        /// As after a power failure: nothing is shut down first.
        #[arg(long)]
        hard: bool,
    },
    /// A machine is taken back as spot machines are: a notice, then the end (Server.SpotInstanceTermination).
    Spot {
        #[command(flatten)]
        who: Who,
        #[command(flatten)]
        when: When,
        /// From the notice to the end.
        #[arg(long, value_name = "TIME", value_parser = milliseconds, default_value = "2m")]
        notice: u32,
    },
    /// A machine is cut off from the network, until the fault is cleared or the time of --for is over.
    Cut {
        #[command(flatten)]
        who: Who,
        #[command(flatten)]
        when: When,
        /// From whom: from everybody (S3 and the metadata service too), or from the other machines only.
        #[arg(long, value_enum, default_value = "all")]
        from: From,
    },
    /// Requests to S3 wait.
    S3Slow {
        /// So long each, such as 300ms.
        #[arg(value_parser = milliseconds)]
        wait: u32,
        #[command(flatten)]
        which: Which,
    },
    /// Requests to S3 are not done and answered with an error.
    S3Error {
        /// SlowDown (503), ServiceUnavailable (503), InternalError (500), AccessDenied (403).
        #[arg(default_value = "InternalError")]
        code: String,
        #[command(flatten)]
        which: Which,
    },
    /// Requests to S3 are done, and the connection is closed without an answer.
    S3Lost {
        #[command(flatten)]
        which: Which,
    },
    /// S3 is away: connections are reset.
    S3Outage {
        #[command(flatten)]
        which: Which,
    },
}

#[derive(Debug, Clone, Copy, ValueEnum)]
enum Instead {
    Nothing,
    #[value(name = "500")]
    Error,
}

#[derive(Debug, Clone, Copy, ValueEnum)]
enum From {
    All,
    Nodes,
}

/// Which machine.
#[derive(Debug, Args)]
struct Who {
    /// A machine that is there, such as i-0123456789abcdef0.
    #[arg(long, value_name = "ID", conflicts_with = "launch", value_delimiter = ',')]
    instance: Vec<InstanceId>,
    /// The Nth machine that is launched from now on.
    #[arg(long, value_name = "N", value_delimiter = ',', default_value = "1",
        value_parser = clap::value_parser!(u32).range(1..))]
    launch: Vec<u32>,
}

impl Who {
    fn targets(self) -> Vec<Target> {
        if self.instance.is_empty() {
            return self.launch.into_iter().map(|nth| Target::Launch { nth }).collect();
        }
        self.instance.into_iter().map(|id| Target::Instance { id }).collect()
    }
}

#[derive(Debug, Args)]
struct When {
    /// So long from now, or from the boot of a machine that is still to be launched.
    #[arg(long, value_name = "TIME", value_parser = milliseconds, default_value = "0s")]
    after: u32,
}

/// Which requests to S3.
#[derive(Debug, Args)]
struct Which {
    /// GET, HEAD, PUT, POST or DELETE.
    #[arg(long)]
    method: Option<String>,
    /// Whose key begins so.
    #[arg(long, value_name = "PREFIX")]
    key: Option<String>,
}

impl Which {
    fn fails(self, failure: S3Failure) -> Kind {
        Kind::S3(S3Fault { method: self.method.map(|method| method.to_uppercase()), key: self.key, failure })
    }
}

impl AddArgs {
    /// The faults that were asked for: one, or one a machine.
    pub(super) fn into_faults(self, now: Timestamp) -> anyhow::Result<Vec<(Kind, Bounds)>> {
        let Limits { count, skip, lasts, probability, seed } = self.limits;
        let is_limited = count.is_some() || skip > 0 || probability.is_some();
        let is_cut = matches!(self.what, What::Cut { .. });
        anyhow::ensure!(
            !self.what.is_of_machines() || !is_limited && (lasts.is_none() || is_cut),
            "a fault of a machine happens once: of the limits only `cut` takes one, --for"
        );
        let bounds = Bounds {
            skip,
            count,
            until: lasts.map(|ms| now + SignedDuration::from_millis(i64::from(ms))),
            chance: probability.map(|probability| Chance { probability, seed }),
        };
        let machines = |who: Who, mishap, after| {
            let fault = |target| (Kind::Machine(MachineFault::new(target, mishap, after, now)), Bounds::default());
            who.targets().into_iter().map(fault).collect()
        };
        Ok(match self.what {
            What::NeverBoots { who, pending } => machines(who, Mishap::NeverBoots { pending }, 0),
            What::NeverJoins { who } => machines(who, Mishap::NeverJoins, 0),
            What::Dies { who, when } => machines(who, Mishap::Dies, when.after),
            What::Reboots { who, when, hard } => machines(who, Mishap::Reboots { hard }, when.after),
            What::Spot { who, when, notice } => machines(who, Mishap::Spot { notice_ms: notice }, when.after),
            What::Cut { who, when, from } => {
                let from = if matches!(from, From::All) { Cut::All } else { Cut::Nodes };
                machines(who, Mishap::Cut { from, for_ms: lasts }, when.after)
            }
            what => vec![(what.of_requests(), bounds)],
        })
    }
}

impl What {
    fn is_of_machines(&self) -> bool {
        matches!(
            self,
            Self::NeverBoots { .. }
                | Self::NeverJoins { .. }
                | Self::Dies { .. }
                | Self::Reboots { .. }
                | Self::Spot { .. }
                | Self::Cut { .. }
        )
    }

    /// The faults that are not of one machine.
    fn of_requests(self) -> Kind {
        match self {
            Self::Capacity { left, zone, instance_type } => Kind::Capacity(Capacity { left, zone, instance_type }),
            Self::Throttle { action, burst, refill } => {
                let rate = burst.zip(refill).map(|(burst, refill)| Rate { burst, refill });
                Kind::Throttle(Throttle { action, rate })
            }
            Self::Ec2Error { code, action } => Kind::Ec2(Ec2Fault { action, failure: Ec2Failure::Refused { code } }),
            Self::Ec2Lost { action, answer: Instead::Nothing } => {
                Kind::Ec2(Ec2Fault { action, failure: Ec2Failure::Unanswered })
            }
            Self::Ec2Lost { action, answer: Instead::Error } => {
                Kind::Ec2(Ec2Fault { action, failure: Ec2Failure::FalseAlarm })
            }
            Self::Settle { hidden, pending } => Kind::Settle(Settle { hidden_ms: hidden, pending_ms: pending }),
            Self::S3Slow { wait, which } => which.fails(S3Failure::Slow { ms: wait }),
            Self::S3Error { code, which } => which.fails(S3Failure::Refused { code }),
            Self::S3Lost { which } => which.fails(S3Failure::Unanswered),
            Self::S3Outage { which } => which.fails(S3Failure::Outage),
            Self::NeverBoots { .. }
            | Self::NeverJoins { .. }
            | Self::Dies { .. }
            | Self::Reboots { .. }
            | Self::Spot { .. }
            | Self::Cut { .. } => unreachable!("faults of machines are made by into_faults"),
        }
    }
}

fn milliseconds(text: &str) -> Result<u32, String> {
    let wrong = || format!("{text:?} is no time: say 500ms, 30s or 5m, at most 24h");
    let digits = text.trim_end_matches(|letter: char| letter.is_ascii_alphabetic());
    let unit = match &text[digits.len()..] {
        "ms" => 1.0,
        "s" | "" => 1000.0,
        "m" => 60_000.0,
        "h" => 3_600_000.0,
        _ => return Err(wrong()),
    };
    let number: f64 = digits.parse().map_err(|_| wrong())?;
    let ms = std::time::Duration::try_from_secs_f64(number * unit / 1000.0).map_err(|_| wrong())?.as_millis();
    u32::try_from(ms).ok().filter(|ms| *ms <= 86_400_000).ok_or_else(wrong)
}

fn probability(text: &str) -> Result<f64, String> {
    let number = text.parse().ok().filter(|number| (0.0..=1.0).contains(number));
    number.ok_or_else(|| format!("{text:?} is not a number from 0 to 1"))
}
