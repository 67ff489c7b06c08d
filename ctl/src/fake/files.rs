//! The files of the fake dom0, its clock and its user.

use std::io;
use std::time::Duration;

use anyhow::ensure;

use super::Fake;
use crate::host::{Call, Failed, Host, Node, Opener};

impl Fake {
    /// A look at files, which can fail and change nothing.
    fn look<T>(
        &mut self,
        what: &str,
        path: &str,
        look: impl FnOnce(&mut Self) -> io::Result<T>,
    ) -> io::Result<T> {
        let mut result = None;
        let made = self.call(format!("{what} {path}"), false, None, |fake, _| {
            result = Some(look(fake));
            Ok(())
        });
        made.map_err(io::Error::other)?;
        result.unwrap_or_else(|| Err(io::Error::other("no answer")))
    }
}

impl Host for Fake {
    fn run(&mut self, call: &Call) -> Result<String, Failed> {
        let text = call.to_string();
        let looks = [
            "xl info",
            "xl dmesg",
            "xl list",
            "xl vcpu-list",
            "xenstore-control quota",
            "xenstore-read",
            "xenstore-ls",
            "xenstore-list",
        ];
        let changes = !looks.iter().any(|look| text.starts_with(look));
        // What xenstored answers is believed: an empty answer of its is one.
        let lie = (call.program == "xl").then(String::new);
        let late = self.late && changes && !self.failures.contains_key(&self.calls.len());
        let result = self.call(text.clone(), changes, lie, |fake, steps| {
            let slow = ["destroy", "pci-assignable-remove"];
            if late
                && call
                    .arguments
                    .iter()
                    .any(|word| slow.contains(&word.as_str()))
            {
                fake.pending
                    .push((fake.now + Duration::from_secs(1), call.clone()));
                return Ok(String::new());
            }
            fake.execute(call, steps)
        });
        result.map_err(|error| Failed {
            call: text,
            how: "failed (exit status: 1)".into(),
            said: format!("{error:#}"),
        })
    }

    fn read(&mut self, path: &str) -> io::Result<String> {
        self.look("read", path, |fake| {
            if path == "/proc/sys/kernel/random/uuid" {
                // A new one each time.
                return Ok(format!("0a1b2c3d-0000-4000-8000-{:012x}\n", fake.next_id));
            }
            let text = fake.state.files.get(path).cloned();
            text.ok_or_else(|| io::ErrorKind::NotFound.into())
        })
    }

    fn bytes(&mut self, path: &str) -> io::Result<Vec<u8>> {
        self.look("read", path, |fake| {
            let image = fake.images.get(path).cloned();
            image.ok_or_else(|| io::ErrorKind::NotFound.into())
        })
    }

    fn grant(&mut self, domain: u32, bytes: &[u8]) -> io::Result<Vec<u32>> {
        let pages = bytes.len().div_ceil(4096) as u32;
        self.look("grant to", &domain.to_string(), |fake| {
            fake.granted.push(bytes.to_vec());
            Ok((0..pages).map(|page| 8 + page).collect())
        })
    }

    fn stamp(&mut self) -> u64 {
        self.granted.len() as u64
    }

    fn size(&mut self, path: &str) -> io::Result<u64> {
        self.look("size of", path, |fake| {
            let text = fake.state.files.get(path).map(|text| text.len() as u64);
            text.ok_or_else(|| io::ErrorKind::NotFound.into())
        })
    }

    fn tail(&mut self, path: &str, from: u64, most: u64) -> io::Result<String> {
        self.look("tail", path, |fake| {
            let text = fake.state.files.get(path).cloned();
            let text = text.ok_or(io::ErrorKind::NotFound)?;
            let size = text.len() as u64;
            let from = if size < from { 0 } else { from };
            let from = from.max(size.saturating_sub(most));
            fake.most_read = fake.most_read.max(size - from);
            Ok(text[from as usize..].to_string())
        })
    }

    fn exists(&mut self, path: &str) -> io::Result<bool> {
        self.look("look for", path, |fake| {
            Ok(fake.state.files.contains_key(path))
        })
    }

    fn list(&mut self, path: &str) -> io::Result<Vec<String>> {
        self.look("list", path, |fake| {
            let prefix = format!("{}/", path.trim_end_matches('/'));
            let files = fake.state.files.keys();
            let names = files.filter_map(|file| file.strip_prefix(&prefix));
            let mut names: Vec<String> = names
                .filter_map(|rest| Some(rest.split('/').next()?.to_string()))
                .collect();
            names.dedup();
            match names.is_empty() {
                true => Err(io::ErrorKind::NotFound.into()),
                false => Ok(names),
            }
        })
    }

    fn link(&mut self, path: &str) -> io::Result<Option<String>> {
        self.look("link", path, |fake| {
            let bdf = path
                .strip_prefix("/sys/bus/pci/devices/")
                .and_then(|rest| rest.strip_suffix("/driver"));
            Ok(bdf.and_then(|bdf| fake.state.drivers.get(bdf).cloned()))
        })
    }

    fn real(&mut self, path: &str) -> io::Result<String> {
        self.look("follow", path, |fake| {
            // A file that begins with `->` is a link.
            let mut path = path.to_string();
            loop {
                match fake
                    .state
                    .files
                    .get(&path)
                    .map(|text| text.strip_prefix("->"))
                {
                    Some(Some(to)) => path = to.to_string(),
                    Some(None) => return Ok(path),
                    None if path.starts_with("/dev/") => return Ok(path),
                    None => return Err(io::ErrorKind::NotFound.into()),
                }
            }
        })
    }

    fn write(&mut self, path: &str, text: &str) -> io::Result<()> {
        let written = self.call(format!("write {path}"), true, None, |fake, steps| {
            // A new file takes the place of the old one in the last step.
            fake.put(&format!("{path}.new"), text);
            if steps > 1 {
                fake.state.files.remove(&format!("{path}.new"));
                fake.put(path, text);
            }
            Ok(())
        });
        written.map_err(io::Error::other)
    }

    fn remove(&mut self, path: &str) -> io::Result<()> {
        let mut there = false;
        let removed = self.call(format!("remove {path}"), true, None, |fake, _| {
            there = fake.state.files.remove(path).is_some();
            Ok(())
        });
        removed.map_err(io::Error::other)?;
        there
            .then_some(())
            .ok_or_else(|| io::ErrorKind::NotFound.into())
    }

    fn patch(&mut self, path: &str, offset: u64, bytes: &[u8]) -> io::Result<()> {
        let patched = self.call(format!("patch {path}"), true, None, |fake, _| {
            let bdf = path.split('/').nth(5).unwrap_or_default();
            ensure!(path.ends_with("/config") && offset == 4, "no such register");
            fake.state.mastering.insert(bdf.into(), bytes[0] & 4 != 0);
            Ok(())
        });
        patched.map_err(io::Error::other)
    }

    fn is_taken(&mut self, path: &str) -> io::Result<bool> {
        self.look("open", path, |fake| {
            Ok(fake.taken.iter().any(|taken| taken == path))
        })
    }

    fn openers(&mut self, nodes: &[Node]) -> io::Result<Vec<Opener>> {
        self.look("openers", "/proc", |fake| {
            let mut openers = fake.openers.clone();
            openers.retain(|o| nodes.contains(&o.node) && fake.now < fake.open_until);
            Ok(openers)
        })
    }

    fn user(&mut self) -> u32 {
        u32::from(!self.is_root)
    }

    fn now(&mut self) -> Duration {
        self.now
    }

    fn sleep(&mut self, time: Duration) {
        self.now += time;
        let now = self.now;
        let (due, later) = self.pending.drain(..).partition(|(at, _)| *at <= now);
        self.pending = later;
        let due: Vec<(Duration, Call)> = due;
        for (_, call) in due {
            // Too late to fail.
            let _ = self.execute(&call, u8::MAX);
            self.check();
        }
    }

    fn interrupted(&mut self) -> bool {
        let late = self.interrupt_at.is_some_and(|at| self.now >= at);
        late || self.interrupt.is_some_and(|at| self.calls.len() > at)
    }
}
