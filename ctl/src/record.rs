//! What is noted about a domain that `create` makes, before anything is done: enough to undo all of
//! it, even if `create` itself is killed half-way. It stands in xenstore, as what it tells of does
//! not outlive dom0 either.

use std::fmt;

use anyhow::{Result, bail, ensure};

use crate::domains::{Domain, Domains};
use crate::host::{Host, found};
use crate::lost;
use crate::pci::Bdf;
use crate::store;

/// Where the records are, by the names under which the domains were created.
const RECORDS: &str = "/tool/spindlectl";
/// Where the configurations that xl gets are kept.
pub(crate) const CONFIGS: &str = "/run/spindlectl";

/// A record.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct Record {
    /// The name that the domain was created with.
    pub(crate) name: String,
    /// The domain's UUID, which a namesake does not have.
    pub(crate) uuid: String,
    /// The numbers of the domain and of those whose place it took, as far as they got one: guests may
    /// still have disks from any. `None` if the note does not say, as that of a dry run.
    pub(crate) ids: Option<Vec<u32>>,
    /// The functions that the domain has; `None` if the note does not say.
    pub(crate) disks: Option<Vec<Bdf>>,
    /// The functions that were taken from dom0, to be given back.
    pub(crate) taken: Vec<TakenDevice>,
}

/// A function that was taken from dom0.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct TakenDevice {
    /// Where it is.
    pub(crate) bdf: Bdf,
    /// The driver that had it; `None` if none had.
    pub(crate) driver: Option<String>,
}

/// Whether this is a name that xenstore, paths and tables can hold.
pub(crate) fn is_name(name: &str) -> bool {
    let plain = |c: char| c.is_ascii_alphanumeric() || "-_".contains(c);
    let begins = name.starts_with(|c: char| c.is_ascii_alphabetic());
    begins && name.len() <= 60 && name.chars().all(plain)
}

impl Record {
    /// Where the record of this domain is.
    pub(crate) fn path(name: &str) -> String {
        format!("{RECORDS}/{name}")
    }

    /// All records, also of domains of which only the configuration is left.
    ///
    /// # Errors
    /// If xenstore does not answer, or a record makes no sense.
    pub(crate) fn all(host: &mut impl Host) -> Result<Vec<Self>> {
        let prefix = format!("{RECORDS}/");
        let nodes = store::tree(host, RECORDS)?;
        let named = nodes.iter().filter_map(|(path, text)| {
            let name = path.strip_prefix(&prefix)?;
            is_name(name).then(|| Self::parse(name, text))
        });
        let mut records = named.collect::<Result<Vec<Self>>>()?;
        records.extend(lost::records(host, &records)?);
        Ok(records)
    }

    /// The record that a user means by `name`: that of the domain which now goes by it, or the one
    /// that was made under it.
    ///
    /// # Errors
    /// If these are two, or if it cannot be found out.
    pub(crate) fn find(
        host: &mut impl Host,
        domains: &Domains,
        name: &str,
    ) -> Result<Option<Self>> {
        let records = Self::all(host)?;
        let made = records.iter().find(|record| record.name == name);
        let now = domains.by_name(name);
        let of_now = now.and_then(|now| records.iter().find(|r| r.is_of(now)));
        // A renamed domain counts by its new name as well, unless another has its old one.
        if let (Some(made), Some(now)) = (made, now)
            && !made.is_of(now)
            && let Some(renamed) = domains.by_uuid(&made.uuid)
        {
            bail!(
                "{name} is two domains: number {} has that name, and number {}, which is called {} \
                 now, was created with it\nsay `xl rename {} OTHER` for the one that you do not \
                 mean",
                now.id,
                renamed.id,
                renamed.name,
                now.id
            );
        }
        Ok(of_now.or(made).cloned())
    }

    /// Whether a domain is the one that the record is about.
    pub(crate) fn is_of(&self, domain: &Domain) -> bool {
        self.uuid.eq_ignore_ascii_case(&domain.uuid)
    }

    /// The name by which a user can speak of the domain of this record.
    pub(crate) fn known_as<'a>(&'a self, domain: &'a Domain) -> &'a str {
        // A domain that xl has cut off in the middle has none.
        match is_name(&domain.name) {
            true => &domain.name,
            false => &self.name,
        }
    }

    fn parse(name: &str, text: &str) -> Result<Self> {
        let mut record = Self {
            name: name.into(),
            uuid: String::new(),
            ids: None,
            disks: None,
            taken: Vec::new(),
        };
        let sound = record.fill(text).is_some();
        let path = Self::path(name);
        ensure!(
            sound && !record.uuid.is_empty(),
            "the note at {path} in xenstore makes no sense: \"{text}\"\nlook at it, end domain \
             {name} if it runs, then `xenstore-rm {path}`"
        );
        Ok(record)
    }

    /// Takes over what the text says; `None` if it is no record's.
    fn fill(&mut self, text: &str) -> Option<()> {
        for (key, value) in text.split(' ').filter_map(|word| word.split_once('=')) {
            let mut values = value.split(',').filter(|value| !value.is_empty());
            match key {
                "uuid" => self.uuid = value.into(),
                "ids" => {
                    let ids: Option<_> = values.map(|id| id.parse().ok()).collect();
                    self.ids = Some(ids?);
                }
                "disks" => {
                    let disks: Option<_> = values.map(|bdf| bdf.parse().ok()).collect();
                    self.disks = Some(disks?);
                }
                "taken" => {
                    let taken = |value: &str| {
                        let (bdf, driver) = value.split_once('/').unwrap_or((value, ""));
                        let driver = (!driver.is_empty()).then(|| driver.to_string());
                        Some(TakenDevice {
                            bdf: bdf.parse().ok()?,
                            driver,
                        })
                    };
                    self.taken = values.by_ref().map(taken).collect::<Option<_>>()?;
                }
                _ => {}
            }
        }
        Some(())
    }

    /// Has it say the number of its domain, before that can be lost with the domain.
    ///
    /// # Errors
    /// If xenstore refuses.
    pub(crate) fn learn(&mut self, host: &mut impl Host, id: u32) -> Result<()> {
        let ids = self.ids.get_or_insert_default();
        if ids.contains(&id) {
            return Ok(());
        }
        ids.push(id);
        self.note(host)
    }

    /// Writes it.
    ///
    /// # Errors
    /// If xenstore refuses.
    pub(crate) fn note(&self, host: &mut impl Host) -> Result<()> {
        store::write(host, &Self::path(&self.name), &self.to_string())
    }

    /// The configuration written for xl.
    pub(crate) fn config(&self) -> String {
        format!("{CONFIGS}/{}.cfg", self.name)
    }

    /// Where the user's configuration is kept, with what was said on the command line, for a
    /// restart.
    pub(crate) fn source(&self) -> String {
        format!("{}.source", self.config())
    }

    /// Removes both configurations, and what a writer that was killed has left of them.
    ///
    /// # Errors
    /// If one is there and stays.
    pub(crate) fn forget_configs(&self, host: &mut impl Host) -> Result<()> {
        for path in [self.config(), self.source()] {
            for path in [format!("{path}.new"), path] {
                let removed = found(host.remove(&path));
                removed.map_err(|error| anyhow::anyhow!("cannot remove {path}: {error}"))?;
            }
        }
        Ok(())
    }

    /// Removes the record itself: what is done last.
    ///
    /// # Errors
    /// If it stays, or if that cannot be found out.
    pub(crate) fn forget(&self, host: &mut impl Host) -> Result<()> {
        store::remove(host, &Self::path(&self.name))
    }
}

/// As it stands in xenstore.
impl fmt::Display for Record {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let taken = self.taken.iter().map(|taken| match &taken.driver {
            Some(driver) => format!("{}/{driver}", taken.bdf),
            None => taken.bdf.to_string(),
        });
        let taken: Vec<String> = taken.collect();
        write!(f, "uuid={}", self.uuid)?;
        if let Some(ids) = &self.ids {
            let ids: Vec<String> = ids.iter().map(u32::to_string).collect();
            write!(f, " ids={}", ids.join(","))?;
        }
        if let Some(disks) = &self.disks {
            let disks: Vec<String> = disks.iter().map(Bdf::to_string).collect();
            write!(f, " disks={}", disks.join(","))?;
        }
        write!(f, " taken={}", taken.join(","))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_record_is_read_as_it_was_written_and_nonsense_refused() {
        let bdf: Bdf = "0000:01:00.0".parse().expect("an address");
        let taken = |driver: Option<&str>| TakenDevice {
            bdf,
            driver: driver.map(str::to_string),
        };
        let cases = [
            (None, None),
            (Some(vec![]), None),
            (Some(vec![3, 5]), Some("nvme")),
        ];
        for (ids, driver) in cases {
            let record = Record {
                name: "a".into(),
                uuid: "u".into(),
                ids,
                disks: Some(vec![bdf]),
                taken: vec![taken(driver)],
            };
            let text = record.to_string();
            assert_eq!(Record::parse("a", &text).expect("a record"), record);
        }
        let earlier = Record::parse("a", "uuid=u config=/run/x taken=0000:01:00.0");
        let earlier = earlier.expect("as written by an earlier version");
        assert_eq!((earlier.disks, earlier.taken), (None, vec![taken(None)]));
        for text in [
            "",
            "taken=",
            "uuid=u taken=x",
            "uuid=u ids=x",
            "uuid=u disks=1",
        ] {
            let text = Record::parse("a", text).expect_err("nonsense").to_string();
            assert!(text.contains("xenstore-rm /tool/spindlectl/a"), "{text}");
        }
    }
}
