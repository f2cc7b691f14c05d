//! Training runs: start, watch, stop, resume; the data files that they learn from.
//!
//! A run belongs to the daemon: dropping its lines ends the watching and not the run.

use std::path::PathBuf;

use hyper::Method;
use serde::de::DeserializeOwned;
use serde_json::json;
use witness_api::{
    DataFile, TrainJob, TrainJobResponse, TrainJobsResponse, TrainLine, TrainPlanResponse, TrainRequest,
};

use crate::error::ClientError;
use crate::http::{Call, Client};
use crate::stream::Lines;
use crate::upload::FileProgress;

const ROUTE: &str = "/api/train";

impl Client {
    /// Starts a run and returns its lines, which end with it. The first is a `job` line with its id.
    pub async fn train(&self, request: &TrainRequest) -> Result<Lines<TrainLine>, ClientError> {
        let request = TrainRequest {
            stream: Some(true),
            plan: None,
            ..request.clone()
        };
        self.stream(ROUTE, &request).await
    }

    /// Starts a run and returns at once.
    pub async fn train_start(&self, request: &TrainRequest) -> Result<TrainJob, ClientError> {
        let request = TrainRequest {
            stream: Some(false),
            plan: None,
            ..request.clone()
        };
        let answer: TrainJobResponse = self.post(ROUTE, &request).await?;
        Ok(answer.job)
    }

    /// Asks what a run would do and take. Starts nothing; with `trial` it takes some seconds.
    pub async fn train_plan<P: DeserializeOwned>(&self, request: &TrainRequest) -> Result<P, ClientError> {
        let request = TrainRequest {
            plan: Some(true),
            stream: Some(false),
            ..request.clone()
        };
        let answer: TrainPlanResponse<P> = self.post(ROUTE, &request).await?;
        Ok(answer.plan)
    }

    /// Lists all runs, the newest first.
    pub async fn train_jobs(&self) -> Result<Vec<TrainJob>, ClientError> {
        let answer: TrainJobsResponse = self.get(ROUTE).await?;
        Ok(answer.jobs)
    }

    /// Returns one run. `id` is an id, the beginning of one that is the only one of its kind, or the name of a model, which means its
    /// newest run; so it is in all that follow.
    pub async fn train_job(&self, id: &str) -> Result<TrainJob, ClientError> {
        let answer: TrainJobResponse = self.get(&path_of(id, "")).await?;
        Ok(answer.job)
    }

    /// Returns the lines of a run from number `from` on: those that are there, and with `follow` those that come until it ends.
    pub async fn train_events(&self, id: &str, from: u64, follow: bool) -> Result<Lines<TrainLine>, ClientError> {
        let path = path_of(id, &format!("/events?from={from}&follow={follow}"));
        Ok(self.call(Call::get(&path)).await?.lines())
    }

    /// Asks a run to write a checkpoint and end. Returns at once; the run's lines tell when it has.
    pub async fn train_stop(&self, id: &str) -> Result<TrainJob, ClientError> {
        self.ask(id, "/stop").await
    }

    /// Lets a run go on from its newest checkpoint.
    pub async fn train_resume(&self, id: &str) -> Result<TrainJob, ClientError> {
        self.ask(id, "/resume").await
    }

    /// Removes a run that is not running, with its checkpoints and lines. Models that it stored stay.
    pub async fn train_remove(&self, id: &str) -> Result<(), ClientError> {
        let call = Call::empty(Method::DELETE, &path_of(id, ""));
        self.call(call).await?.collect().await.map(drop)
    }

    /// Stores files of rows and returns them under their names, in order. `progress` is told the index of the file.
    pub async fn store_data(
        &self,
        files: &[PathBuf],
        link: bool,
        progress: &mut dyn FnMut(usize, FileProgress),
    ) -> Result<Vec<DataFile>, ClientError> {
        let mut stored = Vec::with_capacity(files.len());
        for (index, path) in files.iter().enumerate() {
            let mut report = |state| progress(index, state);
            let digest = self.store_file(path, link, &mut report).await?.digest;
            stored.push(DataFile {
                // As it was given: what is wrong in a row is told as file:line, and a person opens it under that name.
                name: path.display().to_string(),
                digest,
            });
        }
        Ok(stored)
    }

    async fn ask(&self, id: &str, deed: &str) -> Result<TrainJob, ClientError> {
        let answer: TrainJobResponse = self.post(&path_of(id, deed), &json!({})).await?;
        Ok(answer.job)
    }
}

/// Returns the path of a job's route. A model's name may hold slashes and colons: everything but letters, digits, `-`, `.` and `_` is escaped.
fn path_of(id: &str, rest: &str) -> String {
    let mut path = format!("{ROUTE}/");
    for byte in id.bytes() {
        match byte {
            b'a'..=b'z' | b'A'..=b'Z' | b'0'..=b'9' | b'-' | b'.' | b'_' => path.push(char::from(byte)),
            other => path.push_str(&format!("%{other:02X}")),
        }
    }
    path.push_str(rest);
    path
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn names_become_one_part_of_a_path() {
        assert_eq!(path_of("20261126-7f3a", "/stop"), "/api/train/20261126-7f3a/stop");
        assert_eq!(path_of("me/a b:1?ü", ""), "/api/train/me%2Fa%20b%3A1%3F%C3%BC");
    }
}
