//! A store of your own, all of it: leases in one JSON file that the processes of a machine share.
//!
//! It writes single steps only; acquiring, renewing, waiting, retrying and giving back are the core's. Run it with
//! `cargo run --example custom_store`. A real one runs the suite of `lock-conformance`; see `docs/writing-a-store.md`.

use std::collections::BTreeMap;
use std::fs::{self, File};
use std::path::PathBuf;
use std::time::{Duration, SystemTime};

use leasehold::store::{
    Attempt, BreakMode, Claim, ClockKind, Contention, Converter, Effect, Error, ErrorKind, Eviction, Expiry, Fault,
    FencingToken, Finding, Guarantees, HeldBy, Holder, HolderInfo, Lease, LockName, LockStore, Locks, Publisher, Realm,
    ReleaseOutcome, RenewalBatch, RenewalOutcome, Result, Retention, Space, TokenRaiser,
};
use serde::{Deserialize, Serialize};

#[derive(Debug)]
struct JsonStore(PathBuf);

#[derive(Default, Serialize, Deserialize)]
struct Contents {
    last_token: u64, // outlives every row, so that tokens rise
    rows: BTreeMap<LockName, Row>,
}

#[derive(Clone, Serialize, Deserialize)]
struct Row {
    holder: Holder,
    info: HolderInfo,
    token: u64,
    until: SystemTime,
    revoked: bool,
}

impl JsonStore {
    /// One step: nobody reads or writes between its reading and its writing.
    async fn step<T: Send + 'static>(&self, change: impl FnOnce(&mut Contents) -> T + Send + 'static) -> Result<T> {
        let path = self.0.clone();
        let step = move || -> std::io::Result<T> {
            let lock = File::create(path.with_extension("lock"))?;
            lock.lock()?;
            let mut book: Contents =
                if path.exists() { serde_json::from_slice(&fs::read(&path)?)? } else { Contents::default() };
            book.rows.retain(|_, row| row.until > SystemTime::now());
            let answer = change(&mut book);
            fs::write(path.with_extension("new"), serde_json::to_vec_pretty(&book)?)?;
            fs::rename(path.with_extension("new"), &path)?;
            Ok(answer)
        };
        let done = tokio::task::spawn_blocking(step).await.unwrap_or_else(|panic| Err(std::io::Error::other(panic)));
        let unknown = |error| Error::new(ErrorKind::Unavailable, Effect::Unknown, "the file failed").with_source(error);
        done.map_err(unknown)
    }

    fn token(&self, number: u64) -> FencingToken {
        FencingToken::new(self.realm(), number)
    }

    fn held_by(&self, row: Row) -> HeldBy {
        let mut by = HeldBy::holder(row.holder);
        by.remaining = row.until.duration_since(SystemTime::now()).ok();
        by.token = Some(self.token(row.token));
        (by.info, by.revoked) = (Some(row.info), row.revoked);
        by
    }
}

#[leasehold::store::async_trait]
impl LockStore for JsonStore {
    /// Nothing is synced, so a power loss can lose rows; and the wall clock decides. That is what it says.
    fn guarantees(&self) -> Guarantees {
        let crash = Fault::Crash.into();
        Guarantees::NONE.records_survive(crash).tokens_survive(crash).expiry(Expiry::Ttl(ClockKind::Wall))
    }

    fn realm(&self) -> Realm {
        Realm::new(format!("json:{}", self.0.display()))
    }

    async fn request(&self, claim: &Claim) -> Result<Attempt> {
        let wish = claim.clone();
        let granted = self.step(move |book| {
            if let Some(row) = book.rows.get(wish.name()).filter(|row| row.holder != wish.holder()) {
                return Err(row.clone()); // held: a request for a held lock writes nothing
            }
            let before = book.rows.get(wish.name()).map(|row| row.token);
            let token = before.unwrap_or(book.last_token + 1); // asked again: the same lease, the same token
            book.last_token = book.last_token.max(token);
            let (info, until) = (wish.info().clone(), SystemTime::now() + wish.ttl());
            book.rows.insert(wish.name().clone(), Row { holder: wish.holder(), info, token, until, revoked: false });
            Ok(token)
        });
        Ok(match granted.await? {
            Ok(number) => Attempt::Granted(Lease::new(claim.ttl(), Some(self.token(number)), Retention::Complete)),
            Err(row) => Attempt::Held(Contention::new(self.held_by(row), Duration::from_millis(50))),
        })
    }

    async fn wait(&self, _claim: &Claim, _held: &Contention) -> Result<()> {
        std::future::pending().await // no hints: the core looks again by itself
    }

    async fn renew(&self, batch: &RenewalBatch) -> Result<()> {
        for (renewal, claim) in batch.leases() {
            let wish = claim.clone();
            let renewed = self.step(move |book| {
                let row = book.rows.get_mut(wish.name()).filter(|row| row.holder == wish.holder());
                row.map(|row| row.until = SystemTime::now() + wish.ttl())
            });
            renewal.answer(match renewed.await? {
                Some(()) => RenewalOutcome::HeldFor(claim.ttl()),
                None => RenewalOutcome::NotHeld,
            });
        }
        Ok(()) // after an error the others are unanswered: that is unknown, and asked again
    }

    async fn release(&self, claim: &Claim, _linger: Duration) -> Result<ReleaseOutcome> {
        let wish = claim.clone();
        let own = move |book: &mut Contents| {
            let held = book.rows.get(wish.name()).is_some_and(|row| row.holder == wish.holder());
            held.then(|| book.rows.remove(wish.name()))
        };
        Ok(if self.step(own).await?.is_some() { ReleaseOutcome::Held } else { ReleaseOutcome::NotHeld })
    }

    fn token_raiser(&self) -> Option<&dyn TokenRaiser> {
        None // only members of a quorum that gives tokens need it
    }

    fn converter(&self) -> Option<&dyn Converter> {
        None // it has only locks: no readers, no permits
    }

    fn publisher(&self) -> Option<&dyn Publisher> {
        None
    }

    async fn inspect(&self, name: &LockName, _space: Space) -> Result<Vec<HeldBy>> {
        let name = name.clone();
        let row = self.step(move |book| book.rows.get(&name).cloned()).await?;
        Ok(row.map(|row| self.held_by(row)).into_iter().collect())
    }

    async fn list(
        &self,
        _space: Space,
        after: Option<&LockName>,
        limit: usize,
    ) -> Result<Vec<(LockName, Vec<HeldBy>)>> {
        let after = after.cloned();
        let rows = self.step(|book| book.rows.clone()).await?;
        let rows = rows.into_iter().filter(|(name, _)| after.as_ref().is_none_or(|after| name > after));
        Ok(rows.take(limit).map(|(name, row)| (name, vec![self.held_by(row)])).collect())
    }

    async fn break_lock(&self, name: &LockName, seen: &HeldBy, how: BreakMode) -> Result<Option<Eviction>> {
        let (name, seen) = (name.clone(), seen.holder);
        let broken = self.step(move |book| {
            let old = book.rows.get(&name).filter(|row| Some(row.holder) == seen)?.clone();
            book.last_token += 1;
            book.rows.remove(&name);
            if how == BreakMode::Revoke {
                let blocked = Row { holder: Holder::fresh(), token: book.last_token, revoked: true, ..old.clone() };
                book.rows.insert(name, blocked);
            }
            Some((old, book.last_token))
        });
        Ok(broken.await?.map(|(old, number)| {
            let evicted = self.held_by(old);
            let free_in = evicted.remaining.filter(|_| how == BreakMode::Revoke).unwrap_or_default();
            Eviction::new(evicted, Some(self.token(number)), free_in)
        }))
    }

    async fn new_realm(&self) -> Result<Realm> {
        Err(Error::invalid_config("the realm of this store is its path: move the file"))
    }

    async fn diagnose(&self) -> Result<Vec<Finding>> {
        let held = self.step(|book| book.rows.len()).await?;
        Ok(vec![
            Finding::info("file", format!("{} can be read and written", self.0.display())),
            Finding::info("durability", "nothing is synced: a power loss can lose locks and tokens"),
            Finding::info("locks", format!("{held} locks are held")),
        ])
    }
}

#[tokio::main]
async fn main() -> Result<(), Box<dyn std::error::Error>> {
    let directory = tempfile::tempdir()?;
    let path = directory.path().join("locks.json");
    // Two programs that share nothing but the file.
    let (ours, theirs) = (Locks::new(JsonStore(path.clone())), Locks::new(JsonStore(path)));

    let guard = ours.lock("deploy").ttl(Duration::from_secs(5)).acquire().await?;
    println!("We hold {:?} with the token {:?}.", guard.name(), guard.token_if_any());
    assert!(theirs.lock("deploy").try_acquire().await?.is_none(), "two holders at once");
    println!(
        "They do not get it: it is held by {}.",
        theirs.inspect("deploy").await?.first().ok_or("nobody holds it")?
    );

    let waiter = tokio::spawn(theirs.lock("deploy").wait(Duration::from_secs(30)).acquire());
    guard.renew().await?;
    let first = guard.token_if_any().cloned();
    guard.release().await?;
    let guard = waiter.await??;
    println!("We released it, and they hold it, with the token {:?}.", guard.token_if_any());
    assert!(guard.token_if_any() > first.as_ref(), "tokens must rise");
    guard.release().await?;

    let refused = ours.for_correctness().expect_err("a store that may lose its counter");
    println!("For correctness it is refused: {refused}.");
    Ok(())
}
