//! What the domain publishes in xenstore, against what is so: who has which disk, and the counters of
//! each connection.

use super::{Life, SERVED, Strain};
use crate::front::{Counted, Front, Phase};
use crate::world::SECOND;

/// The disk whose list has the volume that is on several.
pub(super) const BEGINS_ON: &str = "vdb";
/// How long what is published may be behind: counters follow every five seconds.
const BEHIND_NS: u64 = 15 * SECOND;

impl Life {
    /// Judges what is published, unless xenstored is, or was just now, too slow for that.
    pub(super) fn judge_published(&mut self) -> Result<(), String> {
        let now = self.now();
        if self.is_store_slow() || self.ending {
            self.behind_until(now);
        }
        if now < self.prompt_from {
            return Ok(());
        }
        for number in 0..self.fronts.len() {
            let front = &self.fronts[number];
            let settled = now - front.counted.since > BEHIND_NS;
            let connected = front.phase == Phase::Running && !front.broken;
            if settled && connected && front.back_state(&self.world.store) == 4 {
                self.judge_holder(front)?;
                self.judge_published_limits(number)?;
                if let Some(shown) = self.judge_counters(front)? {
                    // After a death, the next requests are counted from there on.
                    self.fronts[number].counted.go_on_from(shown);
                }
            }
        }
        for (volume, disk) in SERVED.into_iter().enumerate() {
            let Some(holder) = self.holder(disk) else {
                continue;
            };
            if now.saturating_sub(self.free_since[volume]) > BEHIND_NS && holder != "-" {
                return Err(format!("{disk} is free, and published as {holder}'s"));
            }
        }
        Ok(())
    }

    /// Who has a volume, as it is published: on a line of its own, or below the disk that it begins on.
    pub(super) fn holder(&self, volume: &str) -> Option<&str> {
        let text = self.world.published(&format!("targets/{volume}"));
        let text = text.or_else(|| self.world.published(&format!("targets/{BEGINS_ON}")));
        let mut lines = text?.lines().map(|line| line.split(' '));
        let mut line = lines.find(|line| line.clone().next() == Some(volume))?;
        Some(line.nth(4).unwrap_or_default())
    }

    /// Whether a disk is published as lost, or not at all.
    pub(super) fn is_lost(&self, disk: &str) -> bool {
        let text = self.world.published(&format!("targets/{disk}"));
        text.is_none_or(|text| text.split(' ').nth(3) == Some("-"))
    }

    /// Whether xenstored is slow now.
    pub(super) fn is_store_slow(&self) -> bool {
        let is_slow = |(_, strain): &(u64, Strain)| matches!(strain, Strain::Store);
        self.strains.iter().any(is_slow)
    }

    /// What is published may be behind from now on for a while.
    pub(super) fn behind_until(&mut self, now: u64) {
        self.prompt_from = now + 2 * BEHIND_NS;
    }

    /// The kernel dies: what is published of a connection's counters is in its record, and what is on the
    /// way is counted again when it is done again.
    pub(super) fn note_counters(&mut self) {
        let now = self.now();
        let is_behind = now < self.prompt_from || self.is_store_slow();
        for front in &mut self.fronts {
            if front.phase == Phase::Running {
                let text = self.world.published(&node(front)).unwrap_or_default();
                let mut published = read(text, front.counted);
                // Those of the connection before may stand there yet.
                if is_behind || now - front.entered < BEHIND_NS {
                    published.sums = [0; 4];
                }
                front.outlive(published);
            }
        }
    }

    fn judge_holder(&self, front: &Front) -> Result<(), String> {
        let disk = front.volume.map_or("", |volume| SERVED[volume]);
        let Some(published) = self.holder(disk) else {
            return Ok(());
        };
        let how = if front.traits.read_only { "r" } else { "w" };
        let holder = format!("{}/{}:{how}", front.vbd.frontend, front.vbd.device);
        match published == holder {
            true => Ok(()),
            false => Err(format!(
                "{disk} is {holder}'s, and published as {published}'s"
            )),
        }
    }

    /// The counters that are published, if they could be judged.
    fn judge_counters(&self, front: &Front) -> Result<Option<Counted>, String> {
        if front.outstanding() > 0 || front.counted.failed {
            return Ok(None);
        }
        let Some(text) = self.world.published(&node(front)) else {
            return Err(format!("front {}: it has no counters", front.number));
        };
        let shown = read(text, front.counted);
        match front.counted.allows(shown) {
            true => Ok(Some(shown)),
            false => Err(format!(
                "front {}: its counters are {shown:?}, and were to be {:?}",
                front.number, front.counted
            )),
        }
    }
}

/// Where the counters of a connection are published.
fn node(front: &Front) -> String {
    format!("stat/{}-{}", front.vbd.frontend, front.vbd.device)
}

/// Published counters, and what else is known of `counted`.
fn read(text: &str, counted: Counted) -> Counted {
    let number = |name: &str| {
        let mut words = text.split(' ').filter_map(|word| word.split_once('='));
        let value = words.find(|(key, _)| *key == name);
        value.and_then(|(_, value)| value.parse().ok()).unwrap_or(0)
    };
    Counted {
        sums: [
            number("rd_req"),
            number("wr_req"),
            number("rd_sect"),
            number("wr_sect"),
        ],
        ..counted
    }
}
