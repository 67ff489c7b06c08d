//! Reading fio's terse output (version 3: one line, fields divided by semicolons).

/// What one job did.
#[derive(Clone, Copy, Debug, PartialEq)]
pub(super) struct Report {
    /// Requests per second.
    pub(super) iops: f64,
    /// KiB per second.
    pub(super) kib: f64,
    /// Half of the requests took no longer, in microseconds from submission to completion.
    pub(super) p50: f64,
    /// 99 in 100 took no longer.
    pub(super) p99: f64,
}

/// Fields of one direction: KiB in all, KiB per second, IOPS, milliseconds, four of the
/// submission latency, four of the completion latency, 20 percentiles, nine more.
const FIELDS: usize = 41;

/// Where the fields of the reads begin; those of the writes follow.
const READS: usize = 5;

/// Where the percentiles of a direction begin.
const PERCENTILES: usize = 12;

impl Report {
    /// Reads the line of a job that only reads or only writes.
    pub(super) fn parse(line: &str) -> Option<Self> {
        let fields: Vec<&str> = line.split(';').collect();
        if fields.first() != Some(&"3") || fields.get(4) != Some(&"0") {
            return None;
        }
        let number = |at: usize| fields.get(at)?.parse::<f64>().ok();
        let base = if number(READS)? > 0.0 {
            READS
        } else {
            READS + FIELDS
        };
        let percentile = |wanted: &str| {
            fields
                .get(base + PERCENTILES..base + PERCENTILES + 20)?
                .iter()
                .find_map(|field| field.strip_prefix(wanted)?.strip_prefix('='))?
                .parse()
                .ok()
        };
        Some(Self {
            iops: number(base + 2)?,
            kib: number(base + 1)?,
            p50: percentile("50.000000%")?,
            p99: percentile("99.000000%")?,
        })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn line(reads: bool, error: &str) -> String {
        let busy = "800;100;25;8000;1;2;3;4;5;6;7;8;\
                    1.000000%=1;5.000000%=2;50.000000%=40;99.000000%=90;0%=0;0%=0;0%=0;0%=0;0%=0;0%=0;\
                    0%=0;0%=0;0%=0;0%=0;0%=0;0%=0;0%=0;0%=0;0%=0;0%=0;1;2;3;4;5;6;7;8;9";
        let idle = vec!["0"; FIELDS].join(";");
        let (first, second) = if reads {
            (busy, &*idle)
        } else {
            (&*idle, busy)
        };
        format!("3;fio-3.33;job;0;{error};{first};{second};1.0%;2.0%")
    }

    #[test]
    fn the_direction_that_was_used_is_read() {
        let want = Report {
            iops: 25.0,
            kib: 100.0,
            p50: 40.0,
            p99: 90.0,
        };
        assert_eq!(Report::parse(&line(true, "0")), Some(want));
        assert_eq!(Report::parse(&line(false, "0")), Some(want));
    }

    #[test]
    fn an_error_or_another_format_is_no_report() {
        assert_eq!(Report::parse(&line(true, "5")), None);
        assert_eq!(Report::parse("fio: no such file"), None);
        assert_eq!(Report::parse("3;fio-3.33;job;0;0;8"), None);
    }
}
