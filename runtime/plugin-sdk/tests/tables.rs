//! The macro's expansion, called as a host calls it: through the exported entry and raw tables.
#![expect(unsafe_code, reason = "the test is the C side of the border")]

use std::sync::Mutex;

use witness_plugin_abi::{Buffer, Event, EventKind, EventSink, Plugin, Slice, Status};

/// A plugin as its author writes it: no unsafe in it.
mod plugin {
    #![deny(unsafe_code)]

    use witness_plugin_sdk::protocol::{
        Descriptor, Done, DoneReason, GenerateRequest, InspectReply, InspectRequest, LoadAdapterReply,
        LoadAdapterRequest, LoadReply, LoadRequest, ModelInfo, PROTOCOL_VERSION, Role, Started, UnloadAdapterRequest,
    };
    use witness_plugin_sdk::{Alternative, Diagnostic, Init, Kind, Serve, ServeEvent, export_plugin};

    pub(crate) struct Engine;

    pub(crate) struct Model {
        sequence: Option<u64>,
    }

    fn no() -> Diagnostic {
        Diagnostic::new("test::no", Kind::Unsupported, "no")
    }

    impl Serve for Engine {
        type Model = Model;

        fn init(init: &Init) -> Result<Self, Diagnostic> {
            if init.settings.contains_key("refuse") {
                Err(no())
            } else {
                Ok(Engine)
            }
        }

        fn inspect(&mut self, _: InspectRequest) -> Result<InspectReply, Diagnostic> {
            Err(no())
        }

        fn load(&mut self, _: LoadRequest) -> Result<(Model, LoadReply), Diagnostic> {
            Ok((
                Model { sequence: None },
                LoadReply {
                    info: ModelInfo::default(),
                    resident_bytes: 1,
                    num_ctx: 2,
                },
            ))
        }

        fn load_adapter(&mut self, _: &mut Model, _: LoadAdapterRequest) -> Result<LoadAdapterReply, Diagnostic> {
            panic!("adapters are too much")
        }

        fn unload_adapter(&mut self, _: &mut Model, _: UnloadAdapterRequest) -> Result<(), Diagnostic> {
            Err(no())
        }

        fn start(&mut self, model: &mut Model, sequence: u64, _: GenerateRequest) -> Result<Started, Diagnostic> {
            model.sequence = Some(sequence);
            Ok(Started::default())
        }

        fn cancel(&mut self, model: &mut Model, _: u64) {
            model.sequence = None;
        }

        fn step(&mut self, model: &mut Model, emit: &mut dyn FnMut(ServeEvent<'_>)) -> Result<usize, Diagnostic> {
            if let Some(sequence) = model.sequence.take() {
                let alternatives = [Alternative {
                    id: 1,
                    text: "x".into(),
                    logprob: f32::NEG_INFINITY,
                }];
                emit(ServeEvent::Token {
                    sequence,
                    id: 7,
                    text: "né",
                    logprob: Some(-1.0),
                    alternatives: &alternatives,
                });
                let done = Done {
                    reason: DoneReason::Stop,
                    prompt_tokens: 1,
                    generated_tokens: 1,
                    prompt_ns: 0,
                    generate_ns: 0,
                };
                emit(ServeEvent::Done {
                    sequence,
                    text: "held",
                    done,
                });
            }
            Ok(0)
        }
    }

    export_plugin! {
        descriptor: Descriptor {
            name: "test".into(),
            version: "1.0.0".into(),
            protocol: PROTOCOL_VERSION,
            about: String::new(),
            roles: vec![Role::Serve],
            architectures: vec![],
            formats: vec![],
            devices: vec![],
            isa: vec![],
            score: 0,
        },
        serve: Engine,
    }
}

unsafe extern "C" {
    fn witness_plugin_entry_v1() -> *const Plugin;
}

fn table() -> &'static Plugin {
    // SAFETY: the macro above exports it; the table is static.
    unsafe { &*witness_plugin_entry_v1() }
}

fn slice(text: &str) -> Slice {
    Slice {
        ptr: text.as_ptr(),
        len: text.len(),
    }
}

/// Makes a call; returns its status and reply, given back to the plugin.
fn call(call: impl FnOnce(*mut Buffer) -> Status) -> (Status, String) {
    let mut reply = Buffer {
        ptr: std::ptr::null_mut(),
        len: 0,
        reserved: 0,
    };
    let status = call(&raw mut reply);
    let text = if reply.ptr.is_null() {
        String::new()
    } else {
        // SAFETY: the plugin says so.
        String::from_utf8(unsafe { std::slice::from_raw_parts(reply.ptr, reply.len) }.to_vec())
            .expect("the plugin writes UTF-8")
    };
    // SAFETY: filled by the call, or empty.
    unsafe { (table().free_buffer)(&raw mut reply) };
    assert!(reply.ptr.is_null() && reply.len == 0);
    (status, text)
}

unsafe extern "C" fn collect(context: *mut std::ffi::c_void, event: *const Event) {
    // SAFETY: the context is the mutex of the test below, the event live during the call.
    let (seen, event) = unsafe { (&*context.cast::<Mutex<Vec<(u32, String, String)>>>(), &*event) };
    let text = |slice: Slice| {
        // SAFETY: live during the call.
        String::from_utf8(unsafe { std::slice::from_raw_parts(slice.ptr, slice.len) }.to_vec())
            .expect("the plugin writes UTF-8")
    };
    seen.lock()
        .expect("no other thread holds it")
        .push((event.kind.0, text(event.text), text(event.detail)));
}

/// One life of the plugin, in one test because the engine is one per process.
#[test]
fn a_plugin_lives_through_its_tables() {
    let plugin = table();
    // SAFETY: a plugin without the role would have null here, and the test dies.
    let serve = unsafe { &*plugin.serve };
    assert!(plugin.train.is_null() && plugin.quantize.is_null());
    let load = |request: &str| {
        let mut model = 0;
        // SAFETY: every argument outlives the call.
        let (status, reply) = call(|reply| unsafe { (serve.load)(slice(request), &raw mut model, reply) });
        (status, reply, model)
    };
    // SAFETY: in this and all that follows: every argument outlives the call.
    let init = |settings: &str| call(|reply| unsafe { (plugin.init)(std::ptr::null(), slice(settings), reply) });

    let early = load("{\"model\":{\"files\":[]}}");
    assert_eq!(early.0, Status::REFUSED);
    assert!(early.1.contains("called before `init`"), "{}", early.1);
    assert_eq!(init("{\"refuse\":1}").0, Status::REFUSED);
    assert_eq!(init(""), (Status::OK, "{}".into()));
    assert!(init("{}").1.contains("already initialized"));

    let unreadable = load("{\"model\":7}");
    assert_eq!(unreadable.0, Status::REFUSED);
    assert!(
        unreadable.1.contains("cannot read the request of `load`"),
        "{}",
        unreadable.1
    );
    let (status, reply, model) = load("{\"model\":{\"files\":[]}}");
    assert_eq!((status, model), (Status::OK, 1));
    assert!(reply.contains("\"num_ctx\":2"));

    let prompt = "{\"prompt\":{\"type\":\"tokens\",\"ids\":[1]}}";
    // SAFETY: as above.
    let start = |model| call(|reply| unsafe { (serve.start)(model, 9, slice(prompt), reply) });
    assert_eq!(start(5).0, Status::UNKNOWN_HANDLE);
    assert_eq!(start(1).0, Status::OK);
    let seen: Mutex<Vec<(u32, String, String)>> = Mutex::default();
    let context = (&raw const seen).cast_mut().cast();
    let sink = EventSink {
        struct_size: size_of::<EventSink>(),
        context,
        emit: collect,
    };
    let mut running = 77;
    // SAFETY: as above.
    let step = call(|reply| unsafe { (serve.step)(1, &raw const sink, &raw mut running, reply) });
    assert_eq!((step, running), ((Status::OK, String::new()), 0));
    let seen = seen.into_inner().unwrap();
    assert_eq!(seen[0].0, EventKind::TOKEN.0);
    // JSON has no infinity: the lowest number stands for it.
    assert_eq!(
        (seen[0].1.as_str(), seen[0].2.contains("\"logprob\":-3.4028")),
        ("né", true),
        "{seen:?}"
    );
    assert_eq!((seen[1].0, seen[1].1.as_str()), (EventKind::DONE.0, "held"));

    let adapter = "{\"adapter\":{\"name\":\"a\",\"files\":[]}}";
    // SAFETY: as above.
    let panicked = call(|reply| unsafe { (serve.load_adapter)(1, slice(adapter), reply) });
    assert_eq!(panicked.0, Status::PANICKED);
    assert!(
        panicked.1.contains("panicked in `load_adapter`: adapters are too much"),
        "{}",
        panicked.1
    );
    assert!(panicked.1.contains("tables.rs:"), "{}", panicked.1);

    // After a panic the tables still answer, and shut down.
    // SAFETY: as above.
    assert_eq!(call(|reply| unsafe { (serve.cancel)(1, 9, reply) }).0, Status::OK);
    // SAFETY: as above.
    assert_eq!(call(|reply| unsafe { (serve.unload)(1, reply) }).0, Status::OK);
    // SAFETY: as above.
    unsafe { (plugin.shutdown)() };
    assert!(load("{\"model\":{\"files\":[]}}").1.contains("called before `init`"));
}
