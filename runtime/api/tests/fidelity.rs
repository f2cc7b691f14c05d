//! Bodies in the shapes that Ollama's API document shows: what we read must keep every field, what we write must look the same.
//!
//! The texts were written for this test after the documented shapes. A body is read into its type and written again; the two JSON
//! values must be equal, order of fields included where we write.

#![expect(clippy::unwrap_used, reason = "a test's helper may panic like the test itself")]

use serde::{Serialize, de::DeserializeOwned};
use serde_json::{Value, json};
use witness_api::*;

/// Reads `text` as `T`, writes it and compares with the same JSON, in the same order of fields.
#[track_caller]
fn same<T: Serialize + DeserializeOwned>(text: &str) -> T {
    let value: T = serde_json::from_str(text).unwrap();
    let before: Value = serde_json::from_str(text).unwrap();
    let written = serde_json::to_string(&value).unwrap();
    assert_eq!(written, serde_json::to_string(&before).unwrap());
    value
}

#[test]
fn generate_request() {
    let request: GenerateRequest = same(
        r#"{"model":"m","prompt":"Why?","suffix":"    return result","system":"Be brief","template":"{{ .Prompt }}",
            "context":[1,2,3],"stream":false,"raw":true,"format":"json","keep_alive":300,"images":["aGk="],
            "options":{"temperature":0,"num_ctx":1024,"stop":["\n","user:"]},"think":"high","logprobs":true,"top_logprobs":3,
            "truncate":true,"adapter":"tone"}"#,
    );
    assert!(!request.streams());
    let minimal: GenerateRequest = serde_json::from_str(
        r#"{"name":"m","prompt":null,"stream":null,"options":null,"unknown":1,"keep_alive":"10m"}"#,
    )
    .unwrap();
    assert_eq!(minimal.model, "m");
    assert!(minimal.streams());
    assert_eq!(minimal.keep_alive, Some(parse_duration("10m").unwrap()));
}

#[test]
fn generate_stream_lines() {
    same::<GenerateResponse>(
        r#"{"model":"m","created_at":"2023-08-04T08:52:19.385406455-07:00","response":"The","done":false}"#,
    );
    same::<GenerateResponse>(
        r#"{"model":"m","created_at":"2023-08-04T19:22:45.499127Z","response":"","done":true,"done_reason":"stop",
            "context":[1,2,3],"total_duration":10706818083,"load_duration":6338219291,"prompt_eval_count":26,
            "prompt_eval_duration":130079000,"eval_count":259,"eval_duration":4232710000}"#,
    );
    same::<GenerateResponse>(
        r#"{"model":"m","created_at":"2023-12-18T19:52:07.071755Z","response":"","done":true,"done_reason":"load"}"#,
    );
    same::<GenerateResponse>(
        r#"{"model":"m","created_at":"2024-09-12T03:54:03.516566Z","response":"","done":true,"done_reason":"unload"}"#,
    );
    let line: GenerateResponse = same(
        r#"{"model":"m","created_at":"t","response":"Hi","done":false,
            "logprobs":[{"token":"Hi","logprob":-0.25,"bytes":[72,105],"top_logprobs":[{"token":"Hi","logprob":-0.25},{"token":"Ho","logprob":-1.5}]}]}"#,
    );
    assert!(line.failure.is_none());
    let broken: GenerateResponse =
        serde_json::from_str(r#"{"error":"worker died: SIGSEGV","causes":["SIGSEGV"]}"#).unwrap();
    assert_eq!(
        witness_diagnostics::Diagnostic::from(broken.failure.unwrap()).message,
        "worker died"
    );
}

#[test]
fn chat() {
    let request: ChatRequest = same(
        r#"{"model":"m","messages":[{"role":"user","content":"what is the weather in Tokyo?"},
            {"role":"assistant","content":"","tool_calls":[{"function":{"name":"get_weather","arguments":{"city":"Tokyo"}}}]},
            {"role":"tool","content":"11 degrees","tool_name":"get_weather"}],
            "tools":[{"type":"function","function":{"name":"get_weather","parameters":{"type":"object"}}}],
            "stream":true,"format":{"type":"object"},"keep_alive":-1,"think":true}"#,
    );
    assert_eq!(request.messages[1].tool_calls[0].function.arguments["city"], "Tokyo");
    let lenient: ChatRequest = serde_json::from_str(
        r#"{"model":"m","messages":[{"role":"assistant","content":null,"tool_calls":null,"images":null}],"tools":null}"#,
    )
    .unwrap();
    assert_eq!(lenient.messages[0], Message::new("assistant", ""));
    assert!(lenient.tools.is_none());
    same::<ChatResponse>(
        r#"{"model":"m","created_at":"t","message":{"role":"assistant","content":"The"},"done":false}"#,
    );
    same::<ChatResponse>(
        r#"{"model":"m","created_at":"t","message":{"role":"assistant","content":""},"done":true,"done_reason":"stop","total_duration":4883583458,
            "load_duration":1334875,"prompt_eval_count":26,"prompt_eval_duration":342546000,"eval_count":282,"eval_duration":4535599000}"#,
    );
    let broken: ChatResponse = serde_json::from_str(r#"{"error":"gone","code":"witness::x"}"#).unwrap();
    assert_eq!(broken.failure.unwrap().code, "witness::x");
}

#[test]
fn create() {
    let digest = format!("sha256:{}", "a".repeat(64));
    let request: CreateRequest = same(
        &json!({"model": "mario", "from": "llama3.2", "files": {"model.gguf": digest, "a.txt": digest}, "adapters": {"tone/adapter_config.json": digest},
            "template": "t", "license": ["MIT"], "system": "You are Mario", "parameters": {"temperature": 1}, "messages": [{"role": "user", "content": "hi"}],
            "stream": false, "quantize": "q4_K_M"})
        .to_string(),
    );
    assert_eq!(request.files.unwrap().0[0].0, "model.gguf", "order is kept");
    assert_eq!(
        serde_json::from_str::<CreateRequest>(r#"{"license":"MIT"}"#)
            .unwrap()
            .license
            .unwrap()
            .into_vec(),
        ["MIT"]
    );
    let twice = r#"{"files":{"a":"x","a":"y"}}"#;
    assert!(
        serde_json::from_str::<CreateRequest>(twice)
            .unwrap_err()
            .to_string()
            .contains("`a` is given twice")
    );
    same::<Progress>(r#"{"status":"reading model metadata"}"#);
    same::<Progress>(r#"{"status":"hashing","digest":"sha256:aa","total":200,"completed":100}"#);
}

#[test]
fn listings() {
    same::<ListResponse>(
        r#"{"models":[{"name":"deepseek-r1:latest","model":"deepseek-r1:latest","modified_at":"2025-05-10T08:06:48.639712648-07:00","size":4683075271,
            "digest":"0a8c266910232fd3291e71e5ba1e058cc5af9d411192cf88b6d30e92b6e73163",
            "details":{"parent_model":"","format":"gguf","family":"qwen2","families":["qwen2"],"parameter_size":"7.6B","quantization_level":"Q4_K_M"}}]}"#,
    );
    same::<ProcessResponse>(
        r#"{"models":[{"name":"mistral:latest","model":"mistral:latest","size":5137025024,"digest":"2ae6f6dd7a3dd734790bbbf58b8909a606e0e7e97e94b7604e0aa7ae4490e6d8",
            "details":{"parent_model":"","format":"gguf","family":"llama","families":["llama"],"parameter_size":"7.2B","quantization_level":"Q4_0"},
            "expires_at":"2024-06-04T14:38:31.83753-07:00","size_vram":5137025024,"context_length":4096}]}"#,
    );
    same::<ShowResponse>(
        r#"{"license":"MIT","modelfile":"FROM x","parameters":"num_keep 24","template":"t","system":"s",
            "details":{"parent_model":"","format":"gguf","family":"llama","families":["llama"],"parameter_size":"8.0B","quantization_level":"Q4_0"},
            "model_info":{"general.architecture":"llama","general.parameter_count":8030261248,"tokenizer.ggml.merges":[]},
            "capabilities":["completion","vision"],"modified_at":"t"}"#,
    );
    assert_eq!(
        serde_json::from_str::<ShowRequest>(r#"{"name":"m"}"#).unwrap().model,
        "m"
    );
    assert_eq!(
        serde_json::to_string(&ListResponse::default()).unwrap(),
        r#"{"models":[]}"#
    );
    assert!(
        serde_json::from_str::<ListResponse>(r#"{"models":null}"#)
            .unwrap()
            .models
            .is_empty()
    );
    same::<VersionResponse>(r#"{"version":"0.7.0"}"#);
}

/// No body makes a reader panic: every truncation of a request is an error or a request.
#[test]
fn truncated_bodies() {
    let text = r#"{"model":"m","messages":[{"role":"user","content":"é"}],"keep_alive":"5m","options":{"stop":["a"]},"think":false}"#;
    for end in 0..text.len() {
        assert!(serde_json::from_slice::<ChatRequest>(&text.as_bytes()[..end]).is_err());
        assert!(serde_json::from_slice::<GenerateRequest>(&text.as_bytes()[..end]).is_err());
        assert!(serde_json::from_slice::<CreateRequest>(&text.as_bytes()[..end]).is_err());
    }
}
