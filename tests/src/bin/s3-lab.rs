//! The S3 lab by hand: `s3-lab --to 127.0.0.1:PORT [--faults JSON]` prints its URL. Every line on stdin is the next
//! faults as JSON (`{"latency_ms":20,"bytes_per_second":90000000}`), or `counts` to print what has happened so far.

use std::io::BufRead;
use std::net::SocketAddr;

use clap::Parser;
use ec2mpi_tests::lab::{Faults, Lab};

#[derive(Debug, Parser)]
#[command(name = "s3-lab")]
struct Args {
    /// The S3 server.
    #[arg(long)]
    to: SocketAddr,
    /// Where to listen.
    #[arg(long, default_value = "127.0.0.1:0")]
    listen: SocketAddr,
    /// Same seed, same faults.
    #[arg(long, default_value_t = 1)]
    seed: u64,
    /// What goes wrong from the start.
    #[arg(long, default_value = "{}")]
    faults: String,
}

fn main() -> Result<(), Box<dyn std::error::Error>> {
    let args = Args::parse();
    let lab = Lab::start_at(args.listen, args.to, args.seed)?;
    lab.set(serde_json::from_str(&args.faults)?);
    println!("{}", lab.endpoint());
    for line in std::io::stdin().lock().lines() {
        match line?.trim() {
            "" => {}
            "counts" => println!("{}", serde_json::to_string(&lab.counts())?),
            text => match serde_json::from_str::<Faults>(text) {
                Ok(faults) => lab.set(faults),
                Err(error) => eprintln!("error: {error}; faults stay as they are"),
            },
        }
    }
    // Without a terminal it goes on until it is killed.
    loop {
        std::thread::park();
    }
}
