//! `/api/train`: training runs. A run belongs to the daemon; whoever watches it may come and go.

use std::convert::Infallible;
use std::sync::Arc;

use axum::body::Body;
use axum::extract::{Path, State};
use axum::response::Response;
use bytes::Bytes;
use futures_util::stream;
use http::{HeaderMap, HeaderValue, StatusCode, Uri, header};
use witness_api::{EVENT_STREAM, TrainJobResponse, TrainJobsResponse, TrainPlanResponse, TrainRequest};

use crate::app::App;
use crate::body::Json;
use crate::jobs::order::RunOrder;
use crate::jobs::{Follower, Lines, Run};
use crate::limits::SSE_KEEP_ALIVE;
use crate::reply::{self, Reply, invalid};

pub(super) async fn train(State(app): State<Arc<App>>, Json(request): Json<TrainRequest>) -> Reply {
    let (plans, streams) = (request.plans(), request.streams());
    let mut order = RunOrder::read(&app, request).await?;
    let plan = order.plan(&app).await?;
    if plans {
        return Ok(reply::json(&TrainPlanResponse { plan }));
    }
    order.refuse_if_too_large(&app, &plan).await?;
    let run = app.jobs.submit(&app, order).await?;
    if streams {
        return Ok(ndjson(run.follow(0, true)));
    }
    Ok(job(&run))
}

pub(super) async fn list(State(app): State<Arc<App>>) -> Reply {
    Ok(reply::json(&TrainJobsResponse {
        jobs: app.jobs.list().await?,
    }))
}

pub(super) async fn show(State(app): State<Arc<App>>, Path(id): Path<String>) -> Reply {
    Ok(job(&*app.jobs.find(&id).await?))
}

pub(super) async fn stop(State(app): State<Arc<App>>, Path(id): Path<String>) -> Reply {
    let run = app.jobs.find(&id).await?;
    app.jobs.stop(&run).await?;
    Ok(job(&run))
}

pub(super) async fn resume(State(app): State<Arc<App>>, Path(id): Path<String>) -> Reply {
    let run = app.jobs.find(&id).await?;
    app.jobs.resume(&app, &run).await?;
    Ok(job(&run))
}

pub(super) async fn remove(State(app): State<Arc<App>>, Path(id): Path<String>) -> Reply {
    let run = app.jobs.find(&id).await?;
    app.jobs.remove(&run).await?;
    Ok(reply::empty())
}

fn job(run: &Run) -> Response {
    reply::json(&TrainJobResponse { job: run.view() })
}

/// Returns what a query says about a key. Numbers and words only: nothing is escaped.
fn of_query<'a>(uri: &'a Uri, key: &str) -> Option<&'a str> {
    let mut pairs = uri.query().unwrap_or_default().split('&');
    pairs.find_map(|pair| match pair.split_once('=') {
        Some((name, value)) => (name == key).then_some(value),
        None => (pair == key).then_some(""),
    })
}

pub(super) async fn events(State(app): State<Arc<App>>, Path(id): Path<String>, uri: Uri, headers: HeaderMap) -> Reply {
    let run = app.jobs.find(&id).await?;
    let is_sse = headers
        .get_all(header::ACCEPT)
        .iter()
        .any(|accept| accept.to_str().is_ok_and(|text| text.contains(EVENT_STREAM)));
    // A browser that lost its connection says what it saw last.
    let last_seen = headers
        .get("last-event-id")
        .filter(|_| is_sse)
        .and_then(|id| id.to_str().ok()?.trim().parse::<u64>().ok());
    let from = match (last_seen, of_query(&uri, "from")) {
        (Some(seen), _) => seen.saturating_add(1),
        (None, Some(text)) => text.parse().map_err(|_| {
            invalid(
                "query",
                format!("`from={}` is no number of a line", text.escape_debug()),
            )
            .hint("numbers of lines rise by one from 0")
        })?,
        (None, None) => 0,
    };
    let follows = match of_query(&uri, "follow") {
        None => is_sse,
        Some("true" | "1" | "") => true,
        Some("false" | "0") => false,
        Some(text) => {
            return Err(invalid(
                "query",
                format!("`follow={}` is neither `true` nor `false`", text.escape_debug()),
            )
            .into());
        }
    };
    let follower = run.follow(from, follows);
    if !is_sse {
        return Ok(ndjson(follower));
    }
    if follower.is_spent() {
        // What tells a browser not to come again.
        let mut response = Response::new(Body::empty());
        *response.status_mut() = StatusCode::NO_CONTENT;
        return Ok(response);
    }
    Ok(server_sent(follower))
}

/// Returns the next lines of a run; nothing at the end, or when the file fails: the answer ends then, as it does with the daemon.
async fn next(follower: &mut Follower) -> Option<Lines> {
    follower.next().await.unwrap_or_else(|error| {
        tracing::warn!("the lines of a training run cannot be read: {error}");
        None
    })
}

fn ndjson(follower: Follower) -> Response {
    reply::lines(stream::unfold(follower, |mut follower| async move {
        let lines = next(&mut follower).await?;
        Some((Ok::<_, Infallible>(Bytes::from(lines.text)), follower))
    }))
}

fn server_sent(follower: Follower) -> Response {
    let events = stream::unfold(follower, |mut follower| async move {
        let chunk = match tokio::time::timeout(SSE_KEEP_ALIVE, next(&mut follower)).await {
            Ok(lines) => as_events(&lines?),
            // A comment: whoever stands between must not take the silence for the end.
            Err(_) => b": alive\n\n".to_vec(),
        };
        Some((Ok::<_, Infallible>(Bytes::from(chunk)), follower))
    });
    let mut response = Response::new(Body::from_stream(events));
    let headers = response.headers_mut();
    headers.insert(header::CONTENT_TYPE, HeaderValue::from_static(EVENT_STREAM));
    headers.insert(header::CACHE_CONTROL, HeaderValue::from_static("no-cache"));
    response
}

/// Writes lines as server-sent events, each under its number. JSON has no line end inside, so one `data` holds it.
fn as_events(lines: &Lines) -> Vec<u8> {
    let mut out = Vec::with_capacity(lines.text.len() * 2);
    let texts = lines.text.split(|byte| *byte == b'\n').filter(|line| !line.is_empty());
    for (number, text) in (lines.first..).zip(texts) {
        out.extend_from_slice(format!("id: {number}\ndata: ").as_bytes());
        out.extend_from_slice(text);
        out.extend_from_slice(b"\n\n");
    }
    out
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_line_is_an_event_with_its_number() {
        let lines = Lines {
            first: 7,
            text: b"{\"a\":1}\n{\"a\":2}\n".to_vec(),
        };
        assert_eq!(
            String::from_utf8(as_events(&lines)).unwrap(),
            "id: 7\ndata: {\"a\":1}\n\nid: 8\ndata: {\"a\":2}\n\n"
        );
    }
}
