//! What a lock costs on each store, beside the bare client of the same server.
//!
//! `cargo bench --all-features --bench stores` for all, and with `-- STORE …` for some of them. The
//! two sides of a comparison take turns, in both orders, and the median of the ratios counts: what
//! else the machine does hits both alike. It prints figures and asserts none, since the machine may
//! be busy.

mod etcd;
mod locks;
mod measure;
mod memory;
mod postgres;
mod redis;
mod sqlite;
mod zk;

use std::pin::Pin;
use std::process::ExitCode;

/// The name of a store, and its figures.
type Store = (&'static str, fn() -> Pin<Box<dyn Future<Output = ()>>>);

const STORES: &[Store] = &[
    ("memory", || Box::pin(memory::run())),
    ("sqlite", || Box::pin(sqlite::run())),
    ("redis", || Box::pin(redis::run())),
    ("postgres", || Box::pin(postgres::run())),
    ("etcd", || Box::pin(etcd::run())),
    ("zk", || Box::pin(zk::run())),
];

fn main() -> ExitCode {
    let arguments: Vec<String> = std::env::args().skip(1).collect();
    // `cargo test` runs benchmarks too, and shall not wait for their figures.
    if !arguments.iter().any(|argument| argument == "--bench") {
        return ExitCode::SUCCESS;
    }
    let wanted: Vec<_> = arguments.iter().filter(|argument| !argument.starts_with('-')).collect();
    if let Some(unknown) = wanted.iter().find(|name| STORES.iter().all(|(store, _)| store != **name)) {
        let known: Vec<_> = STORES.iter().map(|(store, _)| *store).collect();
        eprintln!("there are no figures of {unknown}; there are those of {}", known.join(", "));
        return ExitCode::FAILURE;
    }
    let runtime =
        tokio::runtime::Builder::new_multi_thread().worker_threads(2).enable_all().build().expect("a runtime");
    for (store, run) in STORES.iter().filter(|(store, _)| wanted.is_empty() || wanted.iter().any(|name| name == store))
    {
        println!("{store}");
        runtime.block_on(run());
    }
    ExitCode::SUCCESS
}
