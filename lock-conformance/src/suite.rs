//! [`Suite`]: runs the cases inside a program.

use std::panic::{AssertUnwindSafe, catch_unwind};
use std::sync::atomic::{AtomicBool, AtomicUsize, Ordering};
use std::sync::{Arc, Mutex, PoisonError, mpsc};
use std::time::{Duration, Instant};

use lock_core::TokenRaiser;
use tokio::runtime::{Builder, Runtime};

use crate::case::Case;
use crate::cases;
use crate::context::Context;
use crate::ensure::CaseResult;
use crate::factory::{Factory, Failure};
use crate::report::{Outcome, Report, Verdict};
use crate::requirement::Capabilities;
use crate::stall_monitor::StallMonitor;

/// Runs the cases inside a program and returns a [`Report`]. [`run`](crate::run) is for the test
/// file of a store.
pub struct Suite {
    factory: Arc<dyn Factory>,
    deadline: Duration,
    threads: usize,
    to_first_failure: bool,
    filter: Option<String>,
}

/// Number of repetitions of a case after the machine stalled, each with twice the TTL.
const MAX_STALL_RETRIES: u32 = 3;

impl Suite {
    /// A suite of all cases for this store.
    pub fn new(factory: impl Factory) -> Suite {
        Suite::from_factory(Arc::new(factory))
    }

    /// The names of all cases, as `group::sentence`, in the order in which they run.
    pub fn case_names() -> impl Iterator<Item = &'static str> {
        cases::all().map(|case| case.name)
    }

    pub(crate) fn from_factory(factory: Arc<dyn Factory>) -> Suite {
        let deadline = Duration::from_secs(60) + factory.ttl() * 30;
        Suite { factory, deadline, threads: 4, to_first_failure: false, filter: None }
    }

    /// Sets the time limit of one case; by default one minute and thirty TTLs. A case that takes
    /// longer has failed.
    #[must_use]
    pub fn deadline(mut self, deadline: Duration) -> Suite {
        self.deadline = deadline;
        self
    }

    /// Sets the number of cases that run at the same time; by default four. They mostly wait.
    #[must_use]
    pub fn threads(mut self, threads: usize) -> Suite {
        self.threads = threads.max(1);
        self
    }

    /// Stops after the first failure.
    #[must_use]
    pub fn to_first_failure(mut self) -> Suite {
        self.to_first_failure = true;
        self
    }

    /// Runs only cases whose names contain this.
    #[must_use]
    pub fn only(mut self, part: impl Into<String>) -> Suite {
        self.filter = Some(part.into());
        self
    }

    /// Runs the cases. It blocks, and must not be called inside a runtime.
    ///
    /// # Errors
    ///
    /// The error of the factory if the store cannot be deployed and opened.
    pub fn run(&self) -> Result<Report, Failure> {
        let capabilities = self.probe()?;
        let matches = |case: &&Case| self.filter.as_ref().is_none_or(|part| case.name.contains(part));
        let cases: Vec<_> = cases::all().filter(matches).collect();
        let (next, stop) = (AtomicUsize::new(0), AtomicBool::new(false));
        let outcomes = Mutex::new(Vec::new());
        std::thread::scope(|scope| {
            for _ in 0..self.threads {
                scope.spawn(|| {
                    while let Some(case) = cases.get(next.fetch_add(1, Ordering::Relaxed)) {
                        let started = Instant::now();
                        let Some(verdict) = self.verdict(case, &capabilities, &stop) else { return };
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

    /// Opens the store once and reads its guarantees.
    pub(crate) fn probe(&self) -> Result<Capabilities, Failure> {
        let runtime = runtime()?;
        let probed: Result<_, Failure> = runtime.block_on(async {
            let deployment = self.factory.deploy().await?;
            let opened = tokio::time::timeout(self.deadline, deployment.open()).await;
            let store = opened.map_err(|_| "opening the store brought no answer")??;
            let has_record_store = store.token_raiser().and_then(TokenRaiser::record_store).is_some();
            Ok((store.guarantees(), store.token_raiser().is_some(), has_record_store))
        });
        runtime.shutdown_background();
        let (faults, ends_sessions) = (self.factory.faults(), self.factory.ends_sessions());
        probed.map(|(guarantees, has_token_raiser, has_record_store)| Capabilities {
            guarantees,
            faults,
            ends_sessions,
            has_token_raiser,
            has_record_store,
        })
    }

    fn verdict(&self, case: &Case, capabilities: &Capabilities, stop: &AtomicBool) -> Option<Verdict> {
        if stop.load(Ordering::Relaxed) {
            return None;
        }
        if let Some(why) = case.skip_reason(capabilities) {
            return Some(Verdict::Ignored(why));
        }
        Some(match self.run_case(case, capabilities, stop)? {
            Ok(()) => Verdict::Passed,
            Err(why) => Verdict::Failed(why),
        })
    }

    /// Runs one case; `None` if the run was stopped. A failure while the machine stalled does not
    /// count: the case runs again with longer times.
    pub(crate) fn run_case(
        &self,
        case: &Case,
        capabilities: &Capabilities,
        stop: &AtomicBool,
    ) -> Option<Result<(), String>> {
        let mut ttl = self.factory.ttl();
        for repeat in 0.. {
            let stall = StallMonitor::start();
            let result = self.run_once(case, capabilities, ttl, stop)?;
            let Err(failure) = result else { return Some(Ok(())) };
            let stalled = stall.longest();
            if repeat == MAX_STALL_RETRIES || stalled < ttl / 8 {
                return Some(Err(failure.to_string()));
            }
            ttl *= 2;
        }
        None
    }

    /// Runs one case on its own thread and runtime, so that a case that hangs or blocks its thread
    /// fails alone.
    fn run_once(
        &self,
        case: &Case,
        capabilities: &Capabilities,
        ttl: Duration,
        stop: &AtomicBool,
    ) -> Option<CaseResult> {
        let (sender, receiver) = mpsc::channel();
        let (factory, case, guarantees, deadline) =
            (self.factory.clone(), *case, capabilities.guarantees, self.deadline);
        std::thread::spawn(move || {
            let result = catch_unwind(AssertUnwindSafe(|| {
                let runtime = runtime()?;
                let result = runtime.block_on(async {
                    let result = async {
                        let deployment = match case.fault() {
                            Some(fault) => factory.deploy_for(fault).await?,
                            None => factory.deploy().await?,
                        };
                        let codes = factory.finding_codes();
                        (case.run)(Context::new(deployment, guarantees, ttl, codes)).await
                    };
                    let late = || format!("it came to no end within {deadline:.0?}").into();
                    tokio::time::timeout(deadline, result).await.unwrap_or_else(|_| Err(late()))
                });
                runtime.shutdown_background();
                result
            }));
            // The receiver is gone if the run was stopped.
            let _ = sender.send(result.unwrap_or_else(|panic| Err(panic_message(&*panic).into())));
        });
        let give_up_at = Instant::now() + self.deadline + Duration::from_secs(5);
        loop {
            match receiver.recv_timeout(Duration::from_millis(20)) {
                Ok(result) => return Some(result),
                Err(_) if stop.load(Ordering::Relaxed) => return None,
                Err(_) if Instant::now() > give_up_at => {
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

fn panic_message(panic: &(dyn std::any::Any + Send)) -> String {
    let text = panic.downcast_ref::<&str>().map(|text| (*text).to_owned());
    let text = text.or_else(|| panic.downcast_ref::<String>().cloned());
    format!("it panicked: {}", text.unwrap_or_default())
}
