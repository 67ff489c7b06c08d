//! What is noted about a domain that `create` makes, before anything is done: enough to undo all of
//! it, even if `create` itself is killed half-way. It stands in xenstore, as what it tells of does
//! not outlive dom0 either.

use std::fmt;

use anyhow::{Result, bail, ensure};

use crate::host::{Call, Host};
use crate::pci::{Bdf, Device};
use crate::store;

/// Where the records are, by the names of the domains.
const RECORDS: &str = "/tool/spindlectl";

/// A record.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct Record {
    /// The domain's name.
    pub(crate) name: String,
    /// The domain's UUID, by which ours is told from a namesake.
    pub(crate) uuid: String,
    /// The configuration written for xl.
    pub(crate) config: String,
    /// The functions that were taken from dom0, to be given back.
    pub(crate) taken: Vec<Bdf>,
}

impl Record {
    /// Where the record of this domain is.
    pub(crate) fn path(name: &str) -> String {
        format!("{RECORDS}/{name}")
    }

    /// Reads the record of a domain; `None` without one.
    ///
    /// # Errors
    /// If there is one that makes no sense.
    pub(crate) fn read(host: &mut impl Host, name: &str) -> Result<Option<Self>> {
        let Some(text) = store::read(host, &Self::path(name)) else {
            return Ok(None);
        };
        let mut record = Self {
            name: name.into(),
            uuid: String::new(),
            config: String::new(),
            taken: Vec::new(),
        };
        for (key, value) in text.split(' ').filter_map(|word| word.split_once('=')) {
            match key {
                "uuid" => record.uuid = value.into(),
                "config" => record.config = value.into(),
                "taken" => {
                    let bdfs = value.split(',').filter(|bdf| !bdf.is_empty());
                    record.taken = bdfs.map(str::parse).collect::<Result<_>>()?;
                }
                _ => {}
            }
        }
        let path = Self::path(name);
        ensure!(
            !record.uuid.is_empty(),
            "the note at {path} makes no sense: \"{text}\"; look at it, then `xenstore-rm {path}`"
        );
        Ok(Some(record))
    }

    /// The number of the domain that the record is about; `None` if it does not run.
    ///
    /// # Errors
    /// If that cannot be found out.
    pub(crate) fn domain(&self, host: &mut impl Host) -> Result<Option<u32>> {
        let Some(id) = domain(host, &self.name)? else {
            return Ok(None);
        };
        let path = format!("{}/vm", store::home(id));
        match store::read(host, &path) {
            Some(vm) if vm == format!("/vm/{}", self.uuid) => Ok(Some(id)),
            Some(_) => Ok(None),
            None => bail!("cannot tell whether domain {id} is ours: no {path}"),
        }
    }

    /// Whether a function is with xen-pciback.
    pub(crate) fn has_taken(host: &mut impl Host, bdf: Bdf) -> bool {
        host.link(&bdf.sysfs("driver")).as_deref() == Some(Device::PCIBACK)
    }

    /// Gives a function back to the driver that it was taken from.
    ///
    /// # Errors
    /// If xl cannot.
    pub(crate) fn give_back(host: &mut impl Host, bdf: Bdf) -> Result<()> {
        if !Self::has_taken(host, bdf) {
            return Ok(());
        }
        let bdf = bdf.to_string();
        let call = Call::xl(["pci-assignable-remove", "-r", &bdf]);
        host.run(&call).map(drop)
    }

    /// Where the user's configuration is kept, with what was said on the command line, for a
    /// restart.
    pub(crate) fn source(&self) -> String {
        format!("{}.source", self.config)
    }

    /// Removes both configurations.
    ///
    /// # Errors
    /// If one is there and stays.
    pub(crate) fn forget_configs(&self, host: &mut impl Host) -> Result<()> {
        for path in [self.config.clone(), self.source()] {
            if host.exists(&path) {
                host.remove(&path)?;
            }
        }
        Ok(())
    }

    /// Removes the record itself: what is done last.
    ///
    /// # Errors
    /// If xenstore refuses.
    pub(crate) fn forget(&self, host: &mut impl Host) -> Result<()> {
        let path = Self::path(&self.name);
        // To look first would take a failure to read for the absence of the record.
        match store::remove(host, &path) {
            Err(error) if store::read(host, &path).is_some() => Err(error),
            _ => Ok(()),
        }
    }
}

/// As it stands in xenstore.
impl fmt::Display for Record {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let taken: Vec<String> = self.taken.iter().map(Bdf::to_string).collect();
        let (uuid, config) = (&self.uuid, &self.config);
        write!(f, "uuid={uuid} config={config} taken={}", taken.join(","))
    }
}

/// The number of the domain of this name; `None` without one.
///
/// # Errors
/// If xl does not answer.
pub(crate) fn domain(host: &mut impl Host, name: &str) -> Result<Option<u32>> {
    let text = host.run(&Call::xl(["list"]))?;
    // Name, ID, Mem, VCPUs, State, Time(s); only the name may hold anything.
    let domain = |line: &str| {
        let words: Vec<&str> = line.split_whitespace().collect();
        let [first, id, _, _, _, _] = words[..] else {
            return None;
        };
        (first == name).then(|| id.parse().ok())?
    };
    Ok(text.lines().skip(1).find_map(domain))
}
