//! The one thread that writes. It takes every change that waits, runs each in a savepoint of one transaction, commits, and
//! only then answers them all: a group commit.
use super::StoreError;
use crate::metrics::Metrics;
use rusqlite::{Connection, TransactionBehavior};
use std::{sync::Arc, thread};
use tokio::{
    sync::{mpsc, oneshot},
    time::Instant,
};

/// Changes that may wait before askers are held back.
const QUEUE: usize = 4096;
/// Changes in one transaction: bounds how long the first of them waits.
const GROUP: usize = 512;

/// Tells one asker how its change ended, given how the transaction ended.
type Answer = Box<dyn FnOnce(Result<(), StoreError>) + Send>;
type Change = Box<dyn FnOnce(&Connection) -> Answer + Send>;

/// The way to the thread; it ends when this is dropped.
#[derive(Debug)]
pub(super) struct Writer {
    changes: mpsc::Sender<Change>,
}

/// Resolves when the thread has ended and its connection is closed.
pub type Closed = oneshot::Receiver<()>;

impl Writer {
    pub(super) fn start(connection: Connection, metrics: Metrics) -> Result<(Self, Closed), StoreError> {
        let (changes, queue) = mpsc::channel(QUEUE);
        let (closing, closed) = oneshot::channel();
        thread::Builder::new()
            .name("store".into())
            .spawn(move || {
                serve(connection, queue, &metrics);
                // Whoever waits hears of it by this end being gone, too.
                let _ = closing.send(());
            })
            .map_err(|error| StoreError::Content(format!("the writer's thread did not start: {error}")))?;
        Ok((Self { changes }, closed))
    }

    pub(super) async fn run<T, E>(
        &self,
        change: impl FnOnce(&Connection) -> Result<T, E> + Send + 'static,
    ) -> Result<T, E>
    where
        T: Send + 'static,
        E: From<StoreError> + Send + 'static,
    {
        let (answer, answered) = oneshot::channel();
        let change: Change = Box::new(move |connection| {
            let result = in_savepoint(connection, change);
            Box::new(move |committed| {
                // An asker that went away needs no answer; what it asked for is done.
                let _ = answer.send(committed.map_err(E::from).and(result));
            })
        });
        self.changes.send(change).await.map_err(|_| StoreError::Stopped)?;
        answered.await.map_err(|_| StoreError::Stopped)?
    }
}

fn in_savepoint<T, E: From<StoreError>>(
    connection: &Connection,
    change: impl FnOnce(&Connection) -> Result<T, E>,
) -> Result<T, E> {
    let sql = |statement: &str| -> Result<(), StoreError> {
        connection.prepare_cached(statement)?.execute([])?;
        Ok(())
    };
    sql("SAVEPOINT change")?;
    let result = change(connection);
    if result.is_err() {
        sql("ROLLBACK TO change")?;
    }
    sql("RELEASE change")?;
    result
}

fn serve(mut connection: Connection, mut queue: mpsc::Receiver<Change>, metrics: &Metrics) {
    connection.set_prepared_statement_cache_capacity(64);
    while let Some(first) = queue.blocking_recv() {
        let began = Instant::now();
        let mut answers = Vec::with_capacity(GROUP);
        let committed = commit(&mut connection, first, &mut queue, &mut answers);
        metrics.store_committed(answers.len(), began.elapsed(), committed.is_ok());
        if let Err(error) = &committed {
            tracing::error!(%error, changes = answers.len(), "the store did not take a group of changes");
        }
        for answer in answers {
            answer(committed.clone());
        }
    }
}

fn commit(
    connection: &mut Connection,
    first: Change,
    queue: &mut mpsc::Receiver<Change>,
    answers: &mut Vec<Answer>,
) -> Result<(), StoreError> {
    let transaction = match connection.transaction_with_behavior(TransactionBehavior::Immediate) {
        Ok(transaction) => transaction,
        Err(error) => {
            // Dropping the change closes its channel: the asker reads `Stopped`, which is a denial too.
            drop(first);
            return Err(StoreError::Sqlite(Arc::new(error)));
        }
    };
    answers.push(first(&transaction));
    while answers.len() < GROUP
        && let Ok(change) = queue.try_recv()
    {
        answers.push(change(&transaction));
    }
    Ok(transaction.commit()?)
}
