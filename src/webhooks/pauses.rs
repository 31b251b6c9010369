//! How long is waited after failures.

use std::time::Duration;

use rand::RngExt as _;

use super::config::WebhooksConfig;

/// Returns the longest pause after this many failures in a row, from 1: it doubles each time, up to
/// the bound of the settings.
fn longest(config: &WebhooksConfig, failures: u32) -> Duration {
    let doubled = 1_u64.checked_shl(failures.saturating_sub(1)).unwrap_or(u64::MAX);
    let ms = config.retry_min_ms.saturating_mul(doubled).min(config.retry_max_ms);
    Duration::from_millis(ms)
}

/// Returns the pause after this many failures in a row: a random time up to the longest, so that
/// what failed together does not come back together. It is at least what the receiver asks for, as
/// far as that is obeyed.
pub(super) fn after(config: &WebhooksConfig, failures: u32, asked: Option<Duration>) -> Duration {
    let longest = longest(config, failures);
    let random = longest.mul_f64(rand::rng().random_range(0.0..=1.0));
    asked.map_or(random, |asked| random.max(obeyed(config, asked)))
}

/// Returns as much of the time that a receiver asks for as is obeyed.
pub(super) fn obeyed(config: &WebhooksConfig, asked: Duration) -> Duration {
    asked.min(Duration::from_millis(config.max_retry_after_ms))
}

#[cfg(test)]
mod tests {
    use super::*;

    /// Source of the method: "full jitter", AWS Architecture Blog, "Exponential Backoff And
    /// Jitter".
    #[test]
    fn pauses_double_up_to_their_bound_and_are_random_below_it() {
        let config = WebhooksConfig {
            retry_min_ms: 100,
            retry_max_ms: 1_000,
            max_retry_after_ms: 5_000,
            ..WebhooksConfig::default()
        };
        let ms = |failures| longest(&config, failures).as_millis();
        assert_eq!(
            [1, 2, 3, 4, 5, 64, 65, u32::MAX].map(ms),
            [100, 200, 400, 800, 1_000, 1_000, 1_000, 1_000]
        );
        let pauses: Vec<Duration> = (0..200).map(|_| after(&config, 4, None)).collect();
        assert!(pauses.iter().all(|pause| pause.as_millis() <= 800), "{pauses:?}");
        for half in [pauses.iter().min().unwrap(), pauses.iter().max().unwrap()] {
            assert!(half.as_millis() < 200 || half.as_millis() > 600, "not over all of it");
        }
        let asked = |ms| after(&config, 1, Some(Duration::from_millis(ms))).as_millis();
        assert_eq!(asked(2_000), 2_000);
        assert_eq!(asked(60_000), 5_000, "more is not obeyed");
        assert!(asked(0) <= 100);
    }
}
