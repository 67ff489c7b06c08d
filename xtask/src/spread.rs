//! A figure that was measured several times.

/// The least, the middle and the greatest of some measurements.
#[derive(Clone, Copy, Debug, PartialEq)]
pub(crate) struct Spread {
    /// The least.
    pub(crate) min: f64,
    /// The one in the middle, or the mean of the two there.
    pub(crate) median: f64,
    /// The greatest.
    pub(crate) max: f64,
}

impl Spread {
    /// Of those of the values that are numbers; none if there are none.
    pub(crate) fn of(values: impl IntoIterator<Item = f64>) -> Option<Self> {
        let mut values: Vec<f64> = values
            .into_iter()
            .filter(|value| value.is_finite())
            .collect();
        values.sort_by(f64::total_cmp);
        let (min, max) = (*values.first()?, *values.last()?);
        let half = values.len() / 2;
        let upper = values[half];
        let lower = values[(values.len() - 1) / 2];
        Some(Self {
            min,
            median: f64::midpoint(lower, upper),
            max,
        })
    }

    /// `median (min-max)` with so many digits after the point; of one value, that value.
    pub(crate) fn text(&self, digits: usize) -> String {
        let Self { min, median, max } = self;
        if min == max {
            return format!("{median:.digits$}");
        }
        format!("{median:.digits$} ({min:.digits$}–{max:.digits$})")
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_median_of_an_even_number_is_between_the_two_in_the_middle() {
        let spread = Spread::of([4.0, 1.0, 2.0, 9.0]).expect("values");
        assert_eq!((spread.min, spread.median, spread.max), (1.0, 3.0, 9.0));
        assert_eq!(spread.text(1), "3.0 (1.0–9.0)");
    }

    #[test]
    fn one_value_has_no_spread_to_show() {
        let spread = Spread::of([0.5]).expect("a value");
        assert_eq!(spread.text(2), "0.50");
    }

    #[test]
    fn what_is_no_number_does_not_count() {
        assert_eq!(Spread::of([f64::NAN]), None);
        assert_eq!(Spread::of([1.0, f64::NAN]), Spread::of([1.0]));
    }
}
