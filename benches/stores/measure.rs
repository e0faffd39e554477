//! Measuring: rates, and comparisons in turns.

use std::time::{Duration, Instant};

/// Number of turns of each side of a comparison.
const TURNS: usize = 11;

/// Duration of one turn.
pub(crate) const TURN_DURATION: Duration = Duration::from_millis(300);

/// Runs this again and again until then; returns how often.
pub(crate) async fn repeat<F: Future<Output = ()>>(until: Instant, mut cycle: impl FnMut() -> F) -> u64 {
    let mut cycles = 0;
    while Instant::now() < until {
        cycle().await;
        cycles += 1;
    }
    cycles
}

/// Cycles per second of this many tasks, each of which runs until the given moment and returns the
/// number of its cycles.
pub(crate) async fn rate<F>(tasks: usize, task: impl Fn(usize, Instant) -> F) -> f64
where
    F: Future<Output = u64> + Send + 'static,
{
    let start = Instant::now();
    let running: Vec<_> = (0..tasks).map(|number| tokio::spawn(task(number, start + TURN_DURATION))).collect();
    let mut cycles = 0;
    for task in running {
        cycles += task.await.expect("a task ends");
    }
    cycles as f64 / start.elapsed().as_secs_f64()
}

/// Prints our rate, and its ratio to that of something else. The sides take turns, and every second
/// time the other one begins.
pub(crate) async fn compare(what: &str, ours: impl AsyncFn() -> f64, other: &str, theirs: impl AsyncFn() -> f64) {
    // Connections are opened, and a server that compiles at run time has compiled.
    ours().await;
    theirs().await;
    let (mut our_rates, mut their_rates, mut ratios) = (Vec::new(), Vec::new(), Vec::new());
    for turn in 0..TURNS {
        let (our, their) = match turn % 2 {
            0 => {
                let our = ours().await;
                (our, theirs().await)
            }
            _ => {
                let their = theirs().await;
                (ours().await, their)
            }
        };
        our_rates.push(our);
        their_rates.push(their);
        ratios.push(our / their);
    }
    let (least, most) = (ratios.iter().copied().fold(f64::MAX, f64::min), ratios.iter().copied().fold(0.0, f64::max));
    println!(
        "  {what}: {:.2} of {other} ({least:.2} to {most:.2}; {:.0}/s against {:.0}/s)",
        median(ratios),
        median(our_rates),
        median(their_rates)
    );
}

/// The middle one of these values.
pub(crate) fn median(mut values: Vec<f64>) -> f64 {
    values.sort_by(f64::total_cmp);
    values[values.len() / 2]
}
