//! [`Suite`]: runs the cases inside a program.

use std::panic::{AssertUnwindSafe, catch_unwind};
use std::sync::atomic::{AtomicBool, AtomicUsize, Ordering};
use std::sync::{Arc, Mutex, PoisonError, mpsc};
use std::time::{Duration, Instant};

use lock_core::TokenRaiser;
use tokio::runtime::{Builder, Runtime};

use crate::case::{Case, Known, Proof};
use crate::context::Context;
use crate::stall::Stall;
use crate::{Factory, Failure, Outcome, Report, Verdict, cases};

/// Runs the cases inside a program and gives a [`Report`]; [`run`](crate::run) is for a store's test file.
pub struct Suite {
    factory: Arc<dyn Factory>,
    deadline: Duration,
    threads: usize,
    to_first_failure: bool,
    group: Option<String>,
}

/// How often a case is run again, with twice the TTL, after the machine stalled.
const REPEATS: u32 = 3;

impl Suite {
    /// All cases, for this store.
    pub fn new(factory: impl Factory) -> Suite {
        Suite::of(Arc::new(factory))
    }

    pub(crate) fn of(factory: Arc<dyn Factory>) -> Suite {
        let deadline = Duration::from_secs(60) + factory.ttl() * 30;
        Suite { factory, deadline, threads: 4, to_first_failure: false, group: None }
    }

    /// How long one case may take; by default a minute and thirty TTLs. A case that takes longer has failed.
    #[must_use]
    pub fn deadline(mut self, deadline: Duration) -> Suite {
        self.deadline = deadline;
        self
    }

    /// How many cases run at the same time; by default four. They mostly wait.
    #[must_use]
    pub fn threads(mut self, threads: usize) -> Suite {
        self.threads = threads.max(1);
        self
    }

    /// Stops when a case has failed.
    #[must_use]
    pub fn to_first_failure(mut self) -> Suite {
        self.to_first_failure = true;
        self
    }

    /// Only cases whose names contain this.
    #[must_use]
    pub fn only(mut self, part: impl Into<String>) -> Suite {
        self.group = Some(part.into());
        self
    }

    /// Runs the cases. It blocks, and must not be called inside a runtime.
    ///
    /// # Errors
    ///
    /// What the factory says if the store cannot be deployed and opened.
    pub fn run(&self) -> Result<Report, Failure> {
        let known = self.look()?;
        let wanted = |case: &&Case| self.group.as_ref().is_none_or(|part| case.name.contains(part));
        let cases: Vec<_> = cases::all().filter(wanted).collect();
        let (next, stop) = (AtomicUsize::new(0), AtomicBool::new(false));
        let outcomes = Mutex::new(Vec::new());
        std::thread::scope(|scope| {
            for _ in 0..self.threads {
                scope.spawn(|| {
                    while let Some(case) = cases.get(next.fetch_add(1, Ordering::Relaxed)) {
                        let started = Instant::now();
                        let Some(verdict) = self.verdict(case, &known, &stop) else { return };
                        if self.to_first_failure && matches!(verdict, Verdict::Failed(_)) {
                            stop.store(true, Ordering::Relaxed);
                        }
                        let outcome = Outcome { case: case.name, verdict, took: started.elapsed() };
                        outcomes.lock().unwrap_or_else(PoisonError::into_inner).push(outcome);
                    }
                });
            }
        });
        let mut outcomes = outcomes.into_inner().unwrap_or_else(PoisonError::into_inner);
        outcomes.sort_by_key(|outcome| cases.iter().position(|case| case.name == outcome.case));
        Ok(Report { outcomes })
    }

    /// Opens the store once, to see what it promises.
    pub(crate) fn look(&self) -> Result<Known, Failure> {
        let runtime = runtime()?;
        let looked: Result<_, Failure> = runtime.block_on(async {
            let deployment = self.factory.deploy().await?;
            let opened = tokio::time::timeout(self.deadline, deployment.open()).await;
            let store = opened.map_err(|_| "opening the store brought no answer")??;
            let keeps = store.token_raiser().and_then(TokenRaiser::record_store).is_some();
            Ok((store.guarantees(), store.token_raiser().is_some(), keeps))
        });
        runtime.shutdown_background();
        let (faults, ends_sessions) = (self.factory.faults(), self.factory.ends_sessions());
        looked.map(|(guarantees, raises, keeps)| Known { guarantees, faults, ends_sessions, raises, keeps })
    }

    fn verdict(&self, case: &Case, known: &Known, stop: &AtomicBool) -> Option<Verdict> {
        if stop.load(Ordering::Relaxed) {
            return None;
        }
        if let Some(why) = case.ruled_out(known) {
            return Some(Verdict::Ignored(why));
        }
        Some(match self.prove(case, known, stop)? {
            Ok(()) => Verdict::Passed,
            Err(why) => Verdict::Failed(why),
        })
    }

    /// Runs one case to its verdict; `None` if the run was stopped. A failure while the machine stalled is no verdict:
    /// the case runs again with longer times.
    pub(crate) fn prove(&self, case: &Case, known: &Known, stop: &AtomicBool) -> Option<Result<(), String>> {
        let mut ttl = self.factory.ttl();
        for repeat in 0.. {
            let stall = Stall::watch();
            let proof = self.once(case, known, ttl, stop)?;
            let Err(failure) = proof else { return Some(Ok(())) };
            let stalled = stall.longest();
            if repeat == REPEATS || stalled < ttl / 8 {
                return Some(Err(failure.to_string()));
            }
            ttl *= 2;
        }
        None
    }

    /// Runs one case on a thread of its own with a runtime of its own, so that one that hangs, or blocks its thread,
    /// fails by itself.
    fn once(&self, case: &Case, known: &Known, ttl: Duration, stop: &AtomicBool) -> Option<Proof> {
        let (said, hears) = mpsc::channel();
        let (factory, case, guarantees, deadline) = (self.factory.clone(), *case, known.guarantees, self.deadline);
        std::thread::spawn(move || {
            let proof = catch_unwind(AssertUnwindSafe(|| {
                let runtime = runtime()?;
                let proof = runtime.block_on(async {
                    let proof = async {
                        let deployment = match case.fault() {
                            Some(fault) => factory.deploy_for(fault).await?,
                            None => factory.deploy().await?,
                        };
                        (case.run)(Context::new(deployment, guarantees, ttl)).await
                    };
                    let late = || format!("it came to no end within {deadline:.0?}").into();
                    tokio::time::timeout(deadline, proof).await.unwrap_or_else(|_| Err(late()))
                });
                runtime.shutdown_background();
                proof
            }));
            // Nobody listens if the run was stopped.
            let _ = said.send(proof.unwrap_or_else(|panic| Err(words(&*panic).into())));
        });
        let last = Instant::now() + self.deadline + Duration::from_secs(5);
        loop {
            match hears.recv_timeout(Duration::from_millis(20)) {
                Ok(proof) => return Some(proof),
                Err(_) if stop.load(Ordering::Relaxed) => return None,
                Err(_) if Instant::now() > last => {
                    return Some(Err(format!("it blocked its thread for longer than {:.0?}", self.deadline).into()));
                }
                Err(_) => {}
            }
        }
    }
}

impl std::fmt::Debug for Suite {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Suite")
            .field("deadline", &self.deadline)
            .field("threads", &self.threads)
            .finish_non_exhaustive()
    }
}

fn runtime() -> Result<Runtime, Failure> {
    Ok(Builder::new_multi_thread().worker_threads(2).enable_all().build()?)
}

fn words(panic: &(dyn std::any::Any + Send)) -> String {
    let text = panic.downcast_ref::<&str>().map(|text| (*text).to_owned());
    let text = text.or_else(|| panic.downcast_ref::<String>().cloned());
    format!("it panicked: {}", text.unwrap_or_default())
}
