//! `update`: has another image of the kernel follow the one that runs in a Spindle domain, in place. Guests
//! notice a pause.
//!
//! The image is checked here, so that what is wrong with it is said early; then it is granted to the domain,
//! which takes it, checks it again, and changes over. It answers in xenstore with the number that it
//! was asked with. One that does not answer in time is sent a non-maskable interrupt: an image that
//! hangs before it serves dies of that, and the one before it goes on.

use std::time::Duration;

use anyhow::{Context, Result, bail, ensure};
use spindle_kept::image::ImageOffer;
use spindle_kept::image::elf::{LaidOut, lay_out};
use spindle_status::orders::{UpdateAnswer, UpdateOrder};
use spindle_status::path;

use crate::fault::FaultKind;
use crate::host::{Call, Host};
use crate::spindle::{self, Spindle};
use crate::{store, tables};

/// Where an image is installed.
const IMAGE: &str = "/usr/lib/spindle/spindle.elf";
/// How often the answer is looked for.
const LOOK: Duration = Duration::from_millis(50);
/// How long the old image gets to serve again, once the new one was ended.
const BACK: Duration = Duration::from_secs(40);

/// What to update.
pub(crate) struct Update<'a> {
    /// The domain.
    pub(crate) name: &'a str,
    /// The file; without, the one that is installed.
    pub(crate) image: Option<&'a str>,
    /// Whether it is only to be said what would happen.
    pub(crate) dry_run: bool,
    /// How long the new image may take.
    pub(crate) patience: Duration,
}

/// Updates a domain; gives what is to be said of it.
///
/// # Errors
/// If the image cannot follow the one that runs, or could not: then that one runs on.
pub(crate) fn update(
    host: &mut impl Host,
    args: &Update<'_>,
    say: &mut dyn FnMut(&str),
) -> Result<String> {
    ensure!(
        host.user() == 0,
        "this needs root: run it with sudo, in dom0"
    );
    let name = args.name;
    let all = Spindle::all(host)?;
    let spindle = spindle::named(&all, name)?;
    ensure!(
        spindle.ready,
        FaultKind::Refused.error(format!("{name} does not serve yet"))
    );
    let file = args.image.unwrap_or(IMAGE);
    let bytes = host.bytes(file);
    let bytes = bytes.with_context(|| format!("cannot read {file}; nothing was done"))?;
    let image = lay_out(&bytes);
    let image = image.with_context(|| format!("{file} cannot be updated to; nothing was done"))?;
    let served = spindle.disks.iter().filter(|disk| disk.state == 4);
    say(&format!(
        "{name} runs {}; {file} is {}, {} KiB",
        spindle.version,
        image.head,
        image.bytes.len() / 1024
    ));
    say(&format!("{} disks of guests are connected", served.count()));
    let ask = UpdateQuestion::new(host, spindle.id, &image)?;
    if args.dry_run {
        let answer = ask.ask(host, true, args.patience)?;
        return match answer
            .as_deref()
            .and_then(|answer| UpdateAnswer::parse_rest(answer))
        {
            Some((UpdateAnswer::Fits, more)) => {
                tables::kept(spindle).iter().for_each(|line| say(line));
                // Versions that cannot keep a controller enabled say nothing of any.
                more.split("; ").skip(1).for_each(&mut *say);
                Ok(format!("{name} can be updated; nothing was done"))
            }
            Some(_) => {
                let answer = answer.unwrap_or_default();
                Err(FaultKind::Refused.error(format!("{name} {answer}; nothing was done")))
            }
            None => Err(FaultKind::Late.error(deaf(name))),
        };
    }
    ensure!(!host.interrupted(), "interrupted; nothing was done");
    let mut answer = ask.ask(host, false, args.patience)?;
    if answer.is_none() {
        let running = store::read(host, &ask.node(path::UPDATE))?;
        ensure!(
            running.is_none_or(|order| order.is_empty()),
            FaultKind::Late.error(deaf(name))
        );
        say("no answer; the new image is ended, so that the old one goes on");
        let id = spindle.id.to_string();
        host.run(&Call::xl(["trigger", &id, "nmi"]))?;
        answer = ask.wait(host, BACK)?;
    }
    let Some(answer) = answer else {
        return Err(FaultKind::Late.error(format!(
            "{name} does not answer any more\nits console shows what it does"
        )));
    };
    match UpdateAnswer::parse_rest(&answer) {
        Some((UpdateAnswer::Done, what)) => Ok(format!(
            "{name}: {what}\nIts configuration still names the file that it was created with: copy \
             the image there, or `xl reboot` and the next start bring the old one back."
        )),
        Some((UpdateAnswer::Failed, what)) => {
            bail!("{name}: the update failed: {what}\nits console shows why")
        }
        _ => Err(FaultKind::Refused.error(format!("{name} {answer}; nothing was done"))),
    }
}

fn deaf(name: &str) -> String {
    format!(
        "{name} was asked, but has not answered: it may be of a version that cannot be updated in place. \
         Nothing was done"
    )
}

/// A question to a domain, with all that it needs to be answered.
struct UpdateQuestion {
    home: String,
    id: u64,
    offer: u32,
}

impl UpdateQuestion {
    /// Grants the image to the domain.
    fn new(host: &mut impl Host, domain: u32, image: &LaidOut) -> Result<Self> {
        let why = "cannot grant the image to the domain; is the module xen-gntalloc there?";
        // It may be built in.
        let _ = host.run(&Call::change("modprobe", ["xen-gntalloc"]));
        let refs = host.grant(domain, &image.bytes).context(why)?;
        let page = ImageOffer::page(&image.bytes, &refs).context("the image is too large")?;
        let offer = host.grant(domain, &page).context(why)?;
        let offer = offer.first().copied().context(why)?;
        Ok(Self {
            home: store::home(domain),
            // Another one each time: what it answers to an older one is not taken for the answer.
            id: host.stamp(),
            offer,
        })
    }

    fn node(&self, path: &str) -> String {
        format!("{}/{path}", self.home)
    }

    /// Asks, and gives the answer.
    fn ask(&self, host: &mut impl Host, check: bool, patience: Duration) -> Result<Option<String>> {
        let order = UpdateOrder {
            number: self.id,
            grant: self.offer,
            check,
        };
        store::write(host, &self.node(path::UPDATE), &order.to_string()).context("cannot ask")?;
        self.wait(host, patience)
    }

    /// The answer, without its number; `None` if there is none in time.
    fn wait(&self, host: &mut impl Host, patience: Duration) -> Result<Option<String>> {
        let deadline = host.now().saturating_add(patience);
        let number = format!("{} ", self.id);
        loop {
            // A look that meets the node being made fails; the next one does not.
            let looked = store::read(host, &self.node(path::UPDATED));
            let answer = looked.as_ref().ok().and_then(Option::as_deref);
            if let Some(answer) = answer.and_then(|answer| answer.strip_prefix(&number)) {
                return Ok(Some(answer.to_string()));
            }
            if host.now() >= deadline {
                return looked.map(|_| None);
            }
            host.sleep(LOOK);
        }
    }
}
