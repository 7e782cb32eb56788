//! What a run has measured so far. The report is written after every scene, in one step: a run that is stopped leaves
//! what it had.

use std::collections::BTreeMap;
use std::fs;
use std::path::{Path, PathBuf};
use std::time::Instant;

use anyhow::Context;

use crate::report::{Planned, Report, Sample, markdown, rows};
use crate::server::Setting;
use crate::systems::Promise;
use crate::works::{Name, Phase, Sizes};

#[derive(Debug)]
pub(crate) struct Book {
    pub(crate) out: PathBuf,
    pub(crate) begun: Instant,
    pub(crate) machine: String,
    pub(crate) command: String,
    pub(crate) sizes: Sizes,
    pub(crate) promises: BTreeMap<Name, Promise>,
    planned: Vec<Planned>,
    samples: Vec<Sample>,
}

impl Book {
    pub(crate) fn new(
        out: &Path,
        begun: Instant,
        machine: String,
        sizes: Sizes,
        promises: BTreeMap<Name, Promise>,
    ) -> Self {
        let arguments = std::env::args().skip(1).collect::<Vec<_>>().join(" ");
        let command = format!("volume-bench {arguments}").trim_end().to_owned();
        let (planned, samples) = (Vec::new(), Vec::new());
        Self { out: out.to_owned(), begun, machine, command, sizes, promises, planned, samples }
    }

    /// A phase is to be played by these: rows that stay empty are in the report, too.
    pub(crate) fn plan(&mut self, setting: Setting, phase: &Phase, names: &[Name]) {
        for name in names.iter().filter(|name| phase.who.contains(name)) {
            let planned = |row| Planned { setting, row, system: *name, missing: "not reached".to_owned() };
            self.planned.extend(phase.rows.iter().copied().map(planned));
        }
    }

    pub(crate) fn add(&mut self, samples: Vec<Sample>) {
        self.samples.extend(samples);
    }

    /// Why a phase was not played.
    pub(crate) fn skip(&mut self, setting: Setting, phase: &Phase, name: Name, why: &str) {
        let is_meant = |planned: &&mut Planned| {
            planned.setting == setting
                && planned.system == name
                && phase.rows.iter().any(|row| row.id == planned.row.id)
        };
        self.planned.iter_mut().filter(is_meant).for_each(|planned| why.clone_into(&mut planned.missing));
    }

    pub(crate) fn samples(&self, setting: Setting) -> Vec<&Sample> {
        self.samples.iter().filter(|sample| sample.setting == setting).collect()
    }

    /// `volume.json` and `volume.md` as of now.
    pub(crate) fn write(&self, finished: bool) -> anyhow::Result<()> {
        let report = Report {
            machine: format!("{} at the start", self.machine),
            command: self.command.clone(),
            seconds: self.begun.elapsed().as_secs_f64(),
            finished,
            sizes: self.sizes,
            promises: self.promises.iter().map(|(name, promise)| (name.text(), *promise)).collect(),
            rows: rows(&self.samples, &self.planned, &self.promises),
        };
        replace(&self.out.join("volume.json"), &(serde_json::to_string_pretty(&report)? + "\n"))?;
        replace(&self.out.join("volume.md"), &markdown(&report))?;
        if finished {
            self.say(&report);
        }
        Ok(())
    }

    fn say(&self, report: &Report) {
        let verdicts = report.rows.iter().flat_map(|line| &line.targets);
        let count = |held| verdicts.clone().filter(|verdict| verdict.held == held).count();
        let missing = report.rows.iter().filter(|line| line.missing.is_some()).count();
        eprintln!(
            "{} targets held, {} missed, {} not measured; {missing} values not measured; in {:.0} s; wrote {}",
            count(Some(true)),
            count(Some(false)),
            count(None),
            report.seconds,
            self.out.join("volume.{json,md}").display()
        );
    }
}

/// A reader sees the old file or the new one.
fn replace(path: &Path, text: &str) -> anyhow::Result<()> {
    let new = path.with_extension("new");
    fs::write(&new, text).and_then(|()| fs::rename(&new, path)).with_context(|| format!("writing {}", path.display()))
}
