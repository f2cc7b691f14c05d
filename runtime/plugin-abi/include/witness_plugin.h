/*
 * The C interface between a plugin and the worker process that loads it, version 1.0.
 *
 * A plugin is a shared library whose file name is `libwitness_<x>.so` or `witness_<x>.so` (`.dylib` on macOS) and that exports one
 * function, `witness_plugin_entry_v1`. It returns a pointer to a static `witness_plugin`. The messages behind `witness_slice` and
 * `witness_buffer` are JSON; PROTOCOL.md beside this directory documents them, and examples/echo_plugin.c is a whole plugin.
 *
 * Rules:
 *  - Every struct starts with its own size. A table is read only up to its `struct_size`; fields are only ever appended.
 *  - All calls come from one thread, never two at once. `host->log` may be called from any thread.
 *  - A slice is valid for the duration of the call that passes it. A descriptor is static.
 *  - A reply is the plugin's memory; the host copies it and gives it back through `free_buffer`. A reply that was not touched is
 *    empty and is not given back.
 *  - No exception, longjmp or thread exit crosses the border. The process is the worker's: do not exit, fork or touch descriptors
 *    that you did not open.
 */
#ifndef WITNESS_PLUGIN_H
#define WITNESS_PLUGIN_H

#include <stddef.h>
#include <stdint.h>

#ifdef __cplusplus
extern "C" {
#endif

#define WITNESS_ABI_MAJOR 1u
#define WITNESS_ABI_MINOR 1u
#define WITNESS_PROTOCOL_VERSION 1u

#if defined(__GNUC__)
#define WITNESS_EXPORT __attribute__((visibility("default")))
#else
#define WITNESS_EXPORT
#endif

/* Borrowed bytes. `ptr` may be null when `len` is 0. */
typedef struct witness_slice {
    const uint8_t *ptr;
    size_t len;
} witness_slice;

/* Bytes owned by the plugin; `reserved` is the plugin's own business. */
typedef struct witness_buffer {
    uint8_t *ptr;
    size_t len;
    size_t reserved;
} witness_buffer;

/* Result of a call. Anything but OK comes with a Diagnostic as JSON in the reply, when there is one. */
typedef int32_t witness_status;
#define WITNESS_OK 0             /* done; a null reply means an empty one */
#define WITNESS_REFUSED 1        /* refused; the reply says why */
#define WITNESS_PANICKED 2       /* the plugin's state is lost: the host ends the worker */
#define WITNESS_UNKNOWN_HANDLE 3 /* no such model */

/* What the host offers. Lives as long as the process. */
typedef struct witness_host {
    size_t struct_size;
    uint32_t abi_major;
    uint32_t abi_minor;
    void *context; /* pass it back to log */
    /* One line for the daemon's log. level: 1 error, 2 warn, 3 info, 4 debug. */
    void (*log)(void *context, uint32_t level, witness_slice message);
} witness_host;

/* What an event says. */
typedef uint32_t witness_event_kind;
#define WITNESS_EVENT_TOKEN 1u    /* text may be empty while a character or a possible stop text is incomplete */
#define WITNESS_EVENT_PROGRESS 2u /* `token` tokens of the prompt are done; informative */
#define WITNESS_EVENT_DONE 3u     /* detail is Done as JSON; text was held back and belongs to the answer; nothing follows */
#define WITNESS_EVENT_ERROR 4u    /* detail is a Diagnostic as JSON; nothing follows */

/* One event of a running sequence. Valid during the sink call only. */
typedef struct witness_event {
    size_t struct_size;
    uint64_t sequence; /* as given to start */
    witness_event_kind kind;
    uint32_t token;
    float logprob;     /* natural logarithm; NaN when not asked for */
    uint32_t reserved; /* 0 */
    witness_slice text;   /* UTF-8, whole characters */
    witness_slice detail; /* JSON, by kind; for TOKEN empty or [{"id":..,"text":"..","logprob":..}] */
} witness_event;

/* Where step puts its events: call emit on the thread that called step, before step returns. */
typedef struct witness_event_sink {
    size_t struct_size;
    void *context; /* pass it back to emit */
    void (*emit)(void *context, const witness_event *event);
} witness_event_sink;

/* The role "serve". `reply` is an out parameter throughout. */
typedef struct witness_serve_table {
    size_t struct_size;
    /* InspectRequest -> InspectReply */
    witness_status (*inspect)(witness_slice request, witness_buffer *reply /* out */);
    /* LoadRequest -> LoadReply; writes the model's handle */
    witness_status (*load)(witness_slice request, uint64_t *model /* out */, witness_buffer *reply /* out */);
    /* Frees a model; its sequences end without events */
    witness_status (*unload)(uint64_t model, witness_buffer *reply /* out */);
    /* LoadAdapterRequest -> LoadAdapterReply */
    witness_status (*load_adapter)(uint64_t model, witness_slice request, witness_buffer *reply /* out */);
    /* UnloadAdapterRequest -> empty */
    witness_status (*unload_adapter)(uint64_t model, witness_slice request, witness_buffer *reply /* out */);
    /* GenerateRequest -> Started; admits a sequence under the host's number, computes nothing long */
    witness_status (*start)(uint64_t model, uint64_t sequence, witness_slice request, witness_buffer *reply /* out */);
    /* Ends a sequence now, without events; one that ended by itself is no error */
    witness_status (*cancel)(uint64_t model, uint64_t sequence, witness_buffer *reply /* out */);
    /* Advances every sequence of the model by one token or one chunk of its prompt; writes how many still run */
    witness_status (*step)(uint64_t model, const witness_event_sink *sink, uint64_t *running /* out */,
                           witness_buffer *reply /* out */);
} witness_serve_table;

/* Where a job puts its events and learns that it should stop. Both functions may be called from any thread until `run` returns; a job
 * that calls neither for long is taken for hung. */
typedef struct witness_job_sink {
    size_t struct_size;
    void *context; /* pass it back */
    void (*emit)(void *context, witness_slice event); /* a JSON object, at most 1 MiB; waits while the host is behind */
    int32_t (*should_stop)(void *context); /* not 0: save and end */
} witness_job_sink;

/* The roles "train", "quantize" and "measure": a job that runs to its end in one call. */
typedef struct witness_job_table {
    size_t struct_size;
    witness_status (*plan)(witness_slice request, witness_buffer *reply /* out */);
    witness_status (*run)(witness_slice request, const witness_job_sink *sink, witness_buffer *reply /* out */);
} witness_job_table;

/* What the entry point returns. Static. */
typedef struct witness_plugin {
    size_t struct_size;
    uint32_t abi_major;
    uint32_t abi_minor;
    witness_slice descriptor; /* Descriptor as JSON, static */
    /* Called once before any role; settings is a JSON object */
    witness_status (*init)(const witness_host *host, witness_slice settings, witness_buffer *reply /* out */);
    /* Called once at the end */
    void (*shutdown)(void);
    /* Frees what a call put into a buffer */
    void (*free_buffer)(witness_buffer *buffer);
    const witness_serve_table *serve;  /* or null */
    const witness_job_table *train;    /* or null */
    const witness_job_table *quantize; /* or null */
    const witness_job_table *measure;  /* or null; since ABI 1.1 */
} witness_plugin;

/* The one exported symbol. Never returns null. */
WITNESS_EXPORT const witness_plugin *witness_plugin_entry_v1(void);

#ifdef __cplusplus
}
#endif

#endif
