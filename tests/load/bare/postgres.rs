//! A row for each lock, through a pool of eight connections, asked again every tenth of a second.

use std::time::Duration;

use async_trait::async_trait;
use sqlx::PgPool;
use sqlx::postgres::PgPoolOptions;

use super::{Bare, Result};

pub(crate) struct Postgres(PgPool);

const TABLE: &str = "create table if not exists bare (name text primary key, expires_at timestamptz not null)";
const TAKE: &str = "insert into bare values ($1, clock_timestamp() + $2 * interval '1 ms') on conflict (name) do update \
                    set expires_at = excluded.expires_at where bare.expires_at < clock_timestamp()";
const RENEW: &str = "update bare set expires_at = clock_timestamp() + $2 * interval '1 ms' \
                     where name = any($1) and expires_at > clock_timestamp()";
const RELEASE: &str = "delete from bare where name = $1 and expires_at > clock_timestamp()";

impl Postgres {
    pub(crate) async fn connect(url: &str) -> Result<Postgres> {
        let pool =
            PgPoolOptions::new().max_connections(8).acquire_timeout(Duration::from_secs(60)).connect(url).await?;
        sqlx::query(TABLE).execute(&pool).await?;
        Ok(Postgres(pool))
    }
}

#[async_trait]
impl Bare for Postgres {
    async fn acquire(&self, name: &str, ttl: Duration) -> Result<String> {
        loop {
            if let Some(key) = self.take(name, ttl).await? {
                return Ok(key);
            }
            tokio::time::sleep(Duration::from_millis(100)).await;
        }
    }

    async fn take(&self, name: &str, ttl: Duration) -> Result<Option<String>> {
        let taken = sqlx::query(TAKE).bind(name).bind(ttl.as_millis() as f64).execute(&self.0).await?;
        Ok((taken.rows_affected() == 1).then(|| name.to_owned()))
    }

    async fn renew(&self, keys: &[String], ttl: Duration) -> Result<()> {
        for some in keys.chunks(512) {
            sqlx::query(RENEW).bind(some).bind(ttl.as_millis() as f64).execute(&self.0).await?;
        }
        Ok(())
    }

    async fn release(&self, key: &str) -> Result<bool> {
        Ok(sqlx::query(RELEASE).bind(key).execute(&self.0).await?.rows_affected() == 1)
    }
}
