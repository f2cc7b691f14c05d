// Writes the logits that llama.cpp computes for given tokens: `llama_logits MODEL.gguf IDS OUT [ADAPTER.gguf]`.
//
// IDS holds token ids as text; OUT gets f32, [n_tokens, n_vocabulary], little-endian. Keys and values are kept in f32 and flash attention is off, so that what differs
// from another program is the order of sums. Build against an llama.cpp that was built beside it:
//   cmake -S LLAMA_CPP -B BUILD -DCMAKE_BUILD_TYPE=Release -DBUILD_SHARED_LIBS=OFF && cmake --build BUILD --target llama
//   c++ -std=c++17 -O2 -I LLAMA_CPP/include -I LLAMA_CPP/ggml/include llama_logits.cpp BUILD/src/libllama.a
//       BUILD/ggml/src/libggml.a BUILD/ggml/src/libggml-cpu.a BUILD/ggml/src/libggml-base.a -fopenmp -lpthread -ldl -o llama_logits

#include "llama.h"

#include <cstdio>
#include <fstream>
#include <vector>

static int fail(const char * what) {
    fprintf(stderr, "%s\n", what);
    return 1;
}

int main(int argc, char ** argv) {
    if (argc < 4) return fail("usage: llama_logits MODEL.gguf IDS OUT [ADAPTER.gguf]");
    llama_log_set([](ggml_log_level level, const char * text, void *) { if (level == GGML_LOG_LEVEL_WARN || level == GGML_LOG_LEVEL_ERROR) fputs(text, stderr); }, nullptr);
    llama_backend_init();
    llama_model * model = llama_model_load_from_file(argv[1], llama_model_default_params());
    if (model == nullptr) return fail("the model cannot be loaded");

    std::vector<llama_token> ids;
    std::ifstream file(argv[2]);
    for (llama_token id; file >> id;) ids.push_back(id);
    if (ids.empty()) return fail("there are no token ids");

    llama_context_params params = llama_context_default_params();
    params.n_ctx = params.n_batch = params.n_ubatch = uint32_t((ids.size() + 255) / 256 * 256);
    params.n_threads = params.n_threads_batch = 1;
    params.type_k = params.type_v = GGML_TYPE_F32;
    params.flash_attn_type = LLAMA_FLASH_ATTN_TYPE_DISABLED;
    llama_context * context = llama_init_from_model(model, params);
    if (context == nullptr) return fail("there is no context for the model");
    if (argc > 4) {
        llama_adapter_lora * adapter = llama_adapter_lora_init(model, argv[4]);
        float scale = 1.0f;
        if (adapter == nullptr || llama_set_adapters_lora(context, &adapter, 1, &scale) != 0) return fail("the adapter cannot be used");
    }

    llama_batch batch = llama_batch_init(int32_t(ids.size()), 0, 1);
    for (size_t at = 0; at < ids.size(); ++at) {
        batch.token[at] = ids[at];
        batch.pos[at] = llama_pos(at);
        batch.n_seq_id[at] = 1;
        batch.seq_id[at][0] = 0;
        batch.logits[at] = 1;
    }
    batch.n_tokens = int32_t(ids.size());
    if (llama_decode(context, batch) != 0) return fail("the tokens cannot be computed");

    std::ofstream out(argv[3], std::ios::binary);
    const int n_vocabulary = llama_vocab_n_tokens(llama_model_get_vocab(model));
    for (size_t at = 0; at < ids.size(); ++at) {
        out.write(reinterpret_cast<const char *>(llama_get_logits_ith(context, int32_t(at))), sizeof(float) * n_vocabulary);
    }
    return out.good() ? 0 : fail("the logits cannot be written");
}
