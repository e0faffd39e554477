//! [`WatchTask`]: the background task of one watch.

use std::sync::{Arc, Mutex};
use std::time::Duration;

use etcd_client::{Client, EventType, ResponseHeader, WatchFilterType, WatchOptions, WatchResponse, WatchStream};
use lock_core::kit::locked;
use lock_core::{Effect, Error, ErrorKind, Result};

use super::name_watch::{NameWatch, Phase, WatchMap};
use crate::call::CallKind;
use crate::error::classify;
use crate::members::Members;
use crate::reply::Reply;

/// Time after which an idle watch is closed.
const IDLE_TIMEOUT: Duration = Duration::from_secs(10);

/// The background task of one watch.
pub(super) struct WatchTask {
    pub(super) members: Arc<Members>,
    pub(super) by_range: Arc<Mutex<WatchMap>>,
    pub(super) range: Vec<u8>,
    pub(super) watch: Arc<NameWatch>,
}

/// A new watch.
struct OpenedWatch {
    stream: WatchStream,
    created: WatchResponse,
}

impl Reply for OpenedWatch {
    const DENIES_EXPIRED_LOGINS: bool = true;

    fn header(&self) -> Option<&ResponseHeader> {
        self.created.header()
    }
}

impl WatchTask {
    pub(super) async fn run(self) {
        if let Err(error) = self.follow().await {
            self.remove_from(&mut locked(&self.by_range));
            self.watch.set_phase(Phase::Failed(error));
        }
    }

    fn remove_from(&self, by_range: &mut WatchMap) {
        if by_range.get(&self.range).is_some_and(|watch| Arc::ptr_eq(watch, &self.watch)) {
            by_range.remove(&self.range);
        }
    }

    /// Follows the watch until it is idle.
    async fn follow(&self) -> Result<()> {
        let open = |client: Arc<Client>| open_watch(client, self.range.clone());
        let opened = self.members.call(CallKind::Request, "watching", open).await?;
        let (OpenedWatch { mut stream, created }, member) = (opened.value, opened.member);
        let mut idle_check = tokio::time::interval(IDLE_TIMEOUT);
        idle_check.reset();
        let revision = created.header().map_or(i64::MAX, |header| header.revision());
        self.watch.go_live(revision);
        let endpoint = self.members.endpoint(member);
        loop {
            tokio::select! {
                response = next(&mut stream) => {
                    let response = response.map_err(|failure| classify("watching", endpoint, &failure).error)?;
                    self.members.identity().check(endpoint, &response, 0)?;
                    self.on_events(&response)?;
                }
                () = self.members.until_not_preferred(member) => {
                    return Err(watch_ended("its member no longer answers"));
                }
                _ = idle_check.tick() => if self.close_if_idle() { return Ok(()) },
            }
        }
    }

    fn on_events(&self, response: &WatchResponse) -> Result<()> {
        for event in response.events() {
            if let (EventType::Delete, Some(kv)) = (event.event_type(), event.kv()) {
                self.watch.on_deleted(kv.mod_revision(), kv.key());
            }
        }
        if response.canceled() || response.compact_revision() != 0 {
            return Err(watch_ended(response.cancel_reason()));
        }
        Ok(())
    }

    /// Closes the watch if it has no subscription, and had none since the last check.
    fn close_if_idle(&self) -> bool {
        let mut by_range = locked(&self.by_range);
        let mut state = locked(&self.watch.state);
        if std::mem::take(&mut state.used) || !state.subscribers.is_empty() {
            return false;
        }
        state.phase = Phase::Closed;
        self.remove_from(&mut by_range);
        true
    }
}

impl Drop for WatchTask {
    fn drop(&mut self) {
        // The runtime may have ended while the task ran.
        if !self.watch.is_over() {
            self.watch.set_phase(Phase::Failed(watch_ended("its task has ended")));
        }
    }
}

async fn open_watch(client: Arc<Client>, range: Vec<u8>) -> Result<OpenedWatch, etcd_client::Error> {
    let options = WatchOptions::new().with_prefix().with_filters([WatchFilterType::NoPut]);
    let mut stream = client.watch_client().watch(range, Some(options)).await?;
    let created = next(&mut stream).await?;
    match created.canceled() {
        true => Err(etcd_client::Error::WatchError(created.cancel_reason().to_owned())),
        false => Ok(OpenedWatch { stream, created }),
    }
}

async fn next(stream: &mut WatchStream) -> Result<WatchResponse, etcd_client::Error> {
    let response = stream.message().await?;
    response.ok_or_else(|| etcd_client::Error::WatchError("the stream has ended".into()))
}

fn watch_ended(reason: &str) -> Error {
    Error::new(ErrorKind::Unavailable, Effect::None, format!("a watch of etcd has ended: {reason}"))
}
