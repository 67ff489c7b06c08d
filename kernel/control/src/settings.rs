//! Options that an administrator sets while the kernel runs: those of which nothing else depends on what
//! they were.

use alloc::format;
use alloc::string::{String, ToString};

use spindle_blkif::pacer::PollTime;
use spindle_blkif::worker::Order;
use spindle_config::Config;

use crate::cores::Cores;
use crate::hypervisor::Hypervisor;
use crate::worker::CoreWorker;

/// Carries out `WORD KEY=VALUE`; gives the answer, which begins with the same word.
pub(crate) fn set<H: Hypervisor, W: CoreWorker>(order: &[u8], cores: &mut Cores<H, W>) -> String {
    let order = String::from_utf8_lossy(order);
    let (word, order) = order.split_once(' ').unwrap_or((&order, ""));
    match apply(order, cores) {
        Ok(()) => format!("{word} done"),
        Err(why) => format!("{word} refused: {why}"),
    }
}

fn apply<H: Hypervisor, W: CoreWorker>(order: &str, cores: &mut Cores<H, W>) -> Result<(), String> {
    let (key, value) = order.split_once('=').unwrap_or((order, ""));
    let mut config = Config::default();
    let known = config.set(key, Some(value));
    known.map_err(|error| error.to_string())?;
    match key {
        "log" => log::set_max_level(config.log),
        "poll_us" => {
            let poll = config.poll.ns().map_or(PollTime::Always, PollTime::For);
            cores.order_all(|| Order::Poll(poll));
        }
        _ => return Err(format!("{key} is read when the kernel starts")),
    }
    Ok(())
}
