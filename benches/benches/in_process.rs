//! Criterion over everything that is timed in process: `cargo bench -p benches --bench in_process [-- NAME]`.
//!
//! What it times checks its answers first. Under `cargo test`, each runs once, at its smallest size.

use std::time::Instant;

use benches::in_process::{ALL, Subject, Work};
use criterion::{BenchmarkId, Criterion};

fn main() {
    // As criterion itself tells one from the other.
    let has = |flag: &str| std::env::args().any(|argument| argument == flag);
    let is_test = has("--test") || !has("--bench");
    let mut criterion = Criterion::default().configure_from_args().sample_size(20);
    for subject in ALL {
        let sizes = if is_test { subject.sizes.get(..1).unwrap_or_default() } else { subject.sizes };
        bench(&mut criterion, subject, sizes);
    }
    criterion.final_summary();
}

fn bench(criterion: &mut Criterion, subject: &Subject, sizes: &[usize]) {
    let mut group = criterion.benchmark_group(subject.name);
    for size in sizes {
        let id = BenchmarkId::from_parameter(size);
        // Only what is asked for is prepared, and once.
        let mut work = None;
        group.bench_function(id, |bencher| {
            let work = work.get_or_insert_with(|| prepare(subject, *size));
            bencher.iter_custom(|times| {
                let began = Instant::now();
                work(times);
                began.elapsed()
            });
        });
    }
    group.finish();
}

#[expect(clippy::panic, reason = "a wrong answer has no figure, and nobody to be returned to")]
fn prepare(subject: &Subject, size: usize) -> Work {
    (subject.prepare)(size).unwrap_or_else(|error| panic!("{}/{size}: {error:?}", subject.name))
}
