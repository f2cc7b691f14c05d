/*
 * A whole plugin in C: it answers every prompt with its own bytes, one UTF-8 character a token.
 *
 *   cc -std=c11 -O2 -shared -fPIC -I runtime/plugin-abi/include -o witness_echo.so runtime/plugin-abi/examples/echo_plugin.c
 *   witness plugin check ./witness_echo.so
 *
 * It keeps to what C has: the request is searched for the one field that it needs, with JSON escapes undone. A real plugin brings a
 * JSON library of its own.
 */
#include "witness_plugin.h"

#include <math.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

enum { SEQUENCES_MAX = 16, CONTEXT = 256 };

typedef struct {
    uint64_t number; /* 0 = free */
    char *text;
    size_t length, at;
    unsigned generated;
} sequence;

static const witness_host *host;
static sequence sequences[SEQUENCES_MAX];
static int is_loaded;

static const char descriptor[] =
    "{\"name\":\"echo-c\",\"version\":\"1.0.0\",\"protocol\":1,\"about\":\"an example in C\",\"roles\":[\"serve\"],"
    "\"architectures\":[\"echo\"],\"formats\":[{\"name\":\"echo\",\"suffix\":\".echo\"}],\"devices\":[\"cpu\"],\"score\":0}";

#define MODEL_INFO                                                                                                       \
    "{\"format\":\"echo\",\"architecture\":\"echo\",\"parameter_count\":0,\"quantization\":\"F32\","                      \
    "\"context_length\":256,\"embedding_length\":1,\"vocab_size\":256,"                                                   \
    "\"memory\":{\"weights_bytes\":0,\"kv_bytes_per_token\":0,\"overhead_bytes\":4096}}"

/* Hands a copy of a text to the host, which frees it through free_buffer. */
static void answer(witness_buffer *reply, const char *text) {
    size_t length = strlen(text);
    reply->ptr = malloc(length);
    reply->len = reply->ptr ? length : 0;
    if (reply->ptr) memcpy(reply->ptr, text, length);
}

static witness_status refuse(witness_buffer *reply, const char *code, const char *kind, const char *message) {
    char text[512];
    snprintf(text, sizeof text, "{\"code\":\"echo::%s\",\"kind\":\"%s\",\"message\":\"%s\"}", code, kind, message);
    answer(reply, text);
    return WITNESS_REFUSED;
}

/* Returns the value of the string field `name`, unescaped, or null. \u escapes of one code unit only. */
static char *string_field(witness_slice json, const char *name) {
    char key[64];
    int key_length = snprintf(key, sizeof key, "\"%s\":\"", name);
    const char *from = (const char *)json.ptr, *end = from + json.len;
    for (; end - from >= key_length && memcmp(from, key, (size_t)key_length) != 0; from++) {
    }
    if (end - from < key_length) return NULL;
    from += key_length;
    char *text = malloc((size_t)(end - from) + 1), *to = text;
    if (!text) return NULL;
    for (; from < end && *from != '"'; from++) {
        if (*from != '\\' || end - from < 2) {
            *to++ = *from;
            continue;
        }
        from++;
        switch (*from) {
        case 'n': *to++ = '\n'; break;
        case 't': *to++ = '\t'; break;
        case 'r': *to++ = '\r'; break;
        case 'u': *to++ = '?'; from += end - from > 4 ? 4 : end - from - 1; break;
        default: *to++ = *from;
        }
    }
    *to = 0;
    return text;
}

static witness_status init(const witness_host *from, witness_slice settings, witness_buffer *reply) {
    (void)settings, (void)reply;
    host = from;
    static const char line[] = "the echo plugin is ready";
    host->log(host->context, 4, (witness_slice){(const uint8_t *)line, sizeof line - 1});
    return WITNESS_OK;
}

static void drop(sequence *dropped) {
    free(dropped->text);
    *dropped = (sequence){0};
}

static void shutdown_plugin(void) {
    for (int i = 0; i < SEQUENCES_MAX; i++) drop(&sequences[i]);
}

static void free_buffer(witness_buffer *buffer) {
    free(buffer->ptr);
    *buffer = (witness_buffer){0};
}

static witness_status inspect(witness_slice request, witness_buffer *reply) {
    (void)request;
    answer(reply, "{\"model\":" MODEL_INFO "}");
    return WITNESS_OK;
}

static witness_status load(witness_slice request, uint64_t *model, witness_buffer *reply) {
    (void)request;
    if (is_loaded) return refuse(reply, "loaded", "conflict", "one model is loaded already");
    is_loaded = 1;
    *model = 1;
    answer(reply, "{\"info\":" MODEL_INFO ",\"resident_bytes\":4096,\"num_ctx\":256}");
    return WITNESS_OK;
}

static witness_status unload(uint64_t model, witness_buffer *reply) {
    (void)reply;
    if (model != 1 || !is_loaded) return WITNESS_UNKNOWN_HANDLE;
    shutdown_plugin();
    is_loaded = 0;
    return WITNESS_OK;
}

static witness_status load_adapter(uint64_t model, witness_slice request, witness_buffer *reply) {
    (void)model, (void)request;
    return refuse(reply, "no_adapters", "unsupported", "an echo has no adapters");
}

static witness_status unload_adapter(uint64_t model, witness_slice request, witness_buffer *reply) {
    return load_adapter(model, request, reply);
}

static witness_status start(uint64_t model, uint64_t number, witness_slice request, witness_buffer *reply) {
    if (model != 1 || !is_loaded) return WITNESS_UNKNOWN_HANDLE;
    sequence *free_place = NULL;
    for (int i = 0; i < SEQUENCES_MAX && !free_place; i++)
        if (!sequences[i].number) free_place = &sequences[i];
    if (!free_place) return refuse(reply, "busy", "busy", "all sequences are in use");
    char *text = string_field(request, "text");
    if (!text) return refuse(reply, "no_text", "unsupported", "only a prompt of text is understood");
    size_t length = strlen(text);
    if (length >= CONTEXT) {
        free(text);
        return refuse(reply, "context", "invalid", "the prompt is longer than the context of 256 bytes");
    }
    *free_place = (sequence){.number = number, .text = text, .length = length};
    char started[64];
    snprintf(started, sizeof started, "{\"prompt_tokens\":%zu,\"seed\":0}", length);
    answer(reply, started);
    return WITNESS_OK;
}

static witness_status cancel(uint64_t model, uint64_t number, witness_buffer *reply) {
    (void)model, (void)reply;
    for (int i = 0; i < SEQUENCES_MAX; i++)
        if (sequences[i].number == number) drop(&sequences[i]);
    return WITNESS_OK;
}

static witness_status step(uint64_t model, const witness_event_sink *sink, uint64_t *running, witness_buffer *reply) {
    (void)reply;
    if (model != 1 || !is_loaded) return WITNESS_UNKNOWN_HANDLE;
    *running = 0;
    for (int i = 0; i < SEQUENCES_MAX; i++) {
        sequence *each = &sequences[i];
        if (!each->number) continue;
        witness_event event = {.struct_size = sizeof event, .sequence = each->number, .logprob = NAN};
        char done[160];
        if (each->at == each->length) {
            int length = snprintf(done, sizeof done,
                                  "{\"reason\":\"stop\",\"prompt_tokens\":%zu,\"generated_tokens\":%u,\"prompt_ns\":0,"
                                  "\"generate_ns\":0}",
                                  each->length, each->generated);
            event.kind = WITNESS_EVENT_DONE;
            event.detail = (witness_slice){(const uint8_t *)done, (size_t)length};
            sink->emit(sink->context, &event);
            drop(each);
            continue;
        }
        /* One whole character: the first byte and what continues it. */
        const uint8_t *first = (const uint8_t *)each->text + each->at;
        size_t length = 1;
        while (each->at + length < each->length && (first[length] & 0xc0) == 0x80) length++;
        event.kind = WITNESS_EVENT_TOKEN;
        event.token = first[0];
        event.text = (witness_slice){first, length};
        sink->emit(sink->context, &event);
        each->at += length;
        each->generated++;
        ++*running;
    }
    return WITNESS_OK;
}

static const witness_serve_table serve = {
    .struct_size = sizeof serve,
    .inspect = inspect,
    .load = load,
    .unload = unload,
    .load_adapter = load_adapter,
    .unload_adapter = unload_adapter,
    .start = start,
    .cancel = cancel,
    .step = step,
};

static const witness_plugin plugin = {
    .struct_size = sizeof plugin,
    .abi_major = WITNESS_ABI_MAJOR,
    .abi_minor = WITNESS_ABI_MINOR,
    .descriptor = {(const uint8_t *)descriptor, sizeof descriptor - 1},
    .init = init,
    .shutdown = shutdown_plugin,
    .free_buffer = free_buffer,
    .serve = &serve,
};

const witness_plugin *witness_plugin_entry_v1(void) {
    return &plugin;
}
