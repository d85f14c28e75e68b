//! Connections: accepting them within limits, and letting them go.
//!
//! HTTP/1.1 by `hyper` itself rather than `axum::serve`, which bounds neither the time for headers nor for writes nor the
//! number of connections.

use std::convert::Infallible;
use std::io;
use std::net::SocketAddr;
use std::pin::pin;
use std::sync::Arc;
use std::sync::atomic::Ordering::Relaxed;
use std::time::Duration;

use axum::Router;
use axum::extract::ConnectInfo;
use axum::http::Request;
use hyper::body::Incoming;
use hyper::server::conn::http1;
use hyper::service::service_fn;
use hyper_util::rt::{TokioIo, TokioTimer};
use tokio::io::{AsyncRead, AsyncReadExt, AsyncWrite, AsyncWriteExt};
use tokio::net::{TcpListener, TcpStream};
use tokio::sync::Semaphore;
use tokio::task::JoinSet;
use tokio::time::{Instant, sleep, timeout};
use tokio_rustls::TlsAcceptor;
use tokio_rustls::server::TlsStream;
use tower::Service;
use yantra_api::ApiError;
use yantra_engine::EngineHandle;

use crate::app::App;
use crate::registry::ModelKind;
use crate::shutdown::{Stage, reached};
use crate::timed_io::TimedIo;

/// Refusals that are written at the same time; beyond them connections are closed without a word.
const MAX_REFUSALS: usize = 64;
/// After the engines' deadline, how long their last events may take to the clients.
const LAST_WORDS: Duration = Duration::from_secs(2);

/// Serves until the stage changes, then drains. Returns whether every request could end by itself.
pub(crate) async fn serve(listener: TcpListener, app: App, router: Router) -> bool {
    let mut connections = JoinSet::new();
    let slots = Arc::new(Semaphore::new(app.config().max_connections));
    let refusals = Arc::new(Semaphore::new(MAX_REFUSALS));
    let mut stage = app.stage();
    loop {
        tokio::select! {
            () = reached(&mut stage, Stage::Draining) => break,
            Some(_) = connections.join_next(), if !connections.is_empty() => {}
            accepted = listener.accept() => match accepted {
                Ok((stream, peer)) => match Arc::clone(&slots).try_acquire_owned() {
                    Ok(slot) => {
                        let (app, router) = (app.clone(), router.clone());
                        connections.spawn(async move {
                            app.counters().open();
                            connection(stream, peer, &app, router).await;
                            app.counters().close();
                            drop(slot);
                        });
                    }
                    Err(_) => refuse(stream, &app, &refusals),
                },
                Err(error) => pause_after(&error).await,
            },
        }
    }
    drop(listener);
    drain(&app, connections).await
}

/// Serves one connection to its end, once it is encrypted where it has to be.
async fn connection(stream: TcpStream, peer: SocketAddr, app: &App, router: Router) {
    // Tokens are small and wanted at once.
    if let Err(error) = stream.set_nodelay(true) {
        tracing::debug!(%error, "TCP_NODELAY could not be set");
    }
    match app.tls() {
        None => http(stream, peer, app, router).await,
        Some(tls) => match handshake(stream, tls, app).await {
            Ok(stream) => http(stream, peer, app, router).await,
            Err(error) => tracing::debug!(%peer, %error, "connection ended in its TLS handshake"),
        },
    }
}

/// Agrees on keys within the time there is for headers.
async fn handshake(stream: TcpStream, tls: Arc<rustls::ServerConfig>, app: &App) -> io::Result<TlsStream<TcpStream>> {
    let limit = app.config().header_timeout;
    let mut stage = app.stage();
    tokio::select! {
        agreed = timeout(limit, TlsAcceptor::from(tls).accept(stream)) => agreed.unwrap_or_else(|_| {
            let message = format!("not done after {} s", limit.as_secs_f64());
            Err(io::Error::new(io::ErrorKind::TimedOut, message))
        }),
        () = reached(&mut stage, Stage::Draining) => Err(io::Error::other("the server is stopping")),
    }
}

/// Serves one stream to its end; while draining to the end of its running request.
async fn http<S>(stream: S, peer: SocketAddr, app: &App, router: Router)
where
    S: AsyncRead + AsyncWrite + Unpin + Send + 'static,
{
    let config = app.config();
    let io = TokioIo::new(TimedIo::new(stream, config.write_timeout));
    let service = service_fn(move |mut request: Request<Incoming>| {
        request.extensions_mut().insert(ConnectInfo(peer));
        let mut router = router.clone();
        async move { Ok::<_, Infallible>(router.call(request).await.unwrap_or_else(|never| match never {})) }
    });
    let mut builder = http1::Builder::new();
    builder.timer(TokioTimer::new()).header_read_timeout(config.header_timeout);
    let mut connection = pin!(builder.serve_connection(io, service));
    let mut stage = app.stage();
    let result = tokio::select! {
        result = connection.as_mut() => result,
        () = reached(&mut stage, Stage::Draining) => {
            connection.as_mut().graceful_shutdown();
            connection.await
        }
    };
    if let Err(error) = result {
        tracing::debug!(%peer, %error, "connection ended early");
    }
}

/// Answers 503 to a connection there is no place for; with TLS only closes it.
fn refuse(mut stream: TcpStream, app: &App, refusals: &Arc<Semaphore>) {
    app.counters().connections_refused.fetch_add(1, Relaxed);
    // A client that expects TLS would not understand, and is not worth a handshake.
    if app.config().tls.is_some() {
        return;
    }
    let Ok(place) = Arc::clone(refusals).try_acquire_owned() else { return };
    let error = ApiError::too_many_connections(app.config().max_connections);
    tokio::spawn(async move {
        let body = serde_json::to_string(&error.body()).unwrap_or_default();
        let response = format!(
            "HTTP/1.1 503 Service Unavailable\r\ncontent-type: application/json\r\ncontent-length: {}\r\n\
             retry-after: {}\r\nconnection: close\r\n\r\n{body}",
            body.len(),
            error.retry_after_s.unwrap_or(1),
        );
        let spoken = async {
            stream.write_all(response.as_bytes()).await?;
            stream.shutdown().await?;
            // Closing with unread data would reset the connection and the answer with it.
            let mut unread = [0; 4096];
            while stream.read(&mut unread).await? > 0 {}
            io::Result::Ok(())
        };
        // Whether the client got it is its own affair.
        let _ = timeout(Duration::from_secs(1), spoken).await;
        drop(place);
    });
}

/// A failed accept: the client gave up, which is nothing, or files have run out, which takes time to change.
async fn pause_after(error: &io::Error) {
    use io::ErrorKind::{ConnectionAborted, ConnectionRefused, ConnectionReset};
    if matches!(error.kind(), ConnectionAborted | ConnectionRefused | ConnectionReset) {
        return;
    }
    tracing::error!(%error, "a connection could not be accepted");
    sleep(Duration::from_millis(100)).await;
}

/// Lets running requests finish, cancels what has not by the deadline, or everything at once when told to.
async fn drain(app: &App, mut connections: JoinSet<()>) -> bool {
    let deadline = app.config().drain_timeout;
    let mut stage = app.stage();
    if *stage.borrow() < Stage::Stopped {
        tracing::info!(connections = connections.len(), deadline_s = deadline.as_secs_f64(), "draining");
    }
    let finished = tokio::select! {
        finished = async {
            let until = Instant::now() + deadline;
            let finished = engines_drained(app, deadline).await;
            // Embeddings run on, in the time that is left.
            let left = until.saturating_duration_since(Instant::now()) + LAST_WORDS;
            finished & timeout(left, join_all(&mut connections)).await.is_ok()
        } => finished,
        () = reached(&mut stage, Stage::Stopped) => false,
    };
    if !finished {
        engines_drained(app, Duration::ZERO).await;
        connections.abort_all();
    }
    join_all(&mut connections).await;
    finished
}

async fn join_all(connections: &mut JoinSet<()>) {
    while connections.join_next().await.is_some() {}
}

/// Drains all engines, and waits for those that do not answer no longer than for last words: a step that is stuck must
/// not keep the process from ending.
async fn engines_drained(app: &App, deadline: Duration) -> bool {
    timeout(deadline + LAST_WORDS, drain_engines(app, deadline)).await.unwrap_or_else(|_| {
        tracing::error!("an engine does not answer; the server stops without it");
        false
    })
}

/// Drains all engines at the same time. Returns whether none had to cancel anything.
async fn drain_engines(app: &App, deadline: Duration) -> bool {
    let mut drains = JoinSet::new();
    for engine in engines(app) {
        drains.spawn_blocking(move || engine.drain(deadline));
    }
    let mut finished = true;
    while let Some(result) = drains.join_next().await {
        finished &= result.unwrap_or(false);
    }
    finished
}

fn engines(app: &App) -> Vec<EngineHandle> {
    let models = app.registry().all_ready();
    let engine = |model: &Arc<crate::registry::ServedModel>| match &model.kind {
        ModelKind::Generate(generator) => Some(generator.engine.clone()),
        ModelKind::Embed(_) => None,
    };
    models.iter().filter_map(engine).collect()
}
