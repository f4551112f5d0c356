/* A model of tests/golden or the demo, open on the CPU backend, or with KSWEEP_TEST_DEVICE=cuda in the environment on the
 * first GPU in fp32 (the program is skipped, exit 77, where there is none). Every failure fails the running test. */
#ifndef TESTS_SUPPORT_OPEN_MODEL_H
#define TESTS_SUPPORT_OPEN_MODEL_H

#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>

#include <cmocka.h>

#include <stdlib.h>
#include <string.h>

#include "model/model.h"
#include "model/safetensors.h"

typedef struct open_model {
    ks_ops *ops;
    ks_model *model;
} open_model;

static inline bool test_on_gpu(void)
{
    const char *device = getenv("KSWEEP_TEST_DEVICE");
    return device && !strcmp(device, "cuda");
}

static inline ks_ops *open_test_device(int threads, ks_error *err)
{
    if (!test_on_gpu())
        return ks_ops_cpu(threads, err);
    if (!ks_cuda_device_count())
        exit(77);
    return ks_ops_cuda(0, "fp32", err);
}

static inline open_model open_model_at(const char *path, int threads, int parts,
                                       const char *tokenizer)
{
    ks_error err = KS_ERROR_NONE;
    open_model o = {0};
    ks_model_config config;
    ks_safetensors *st = ks_safetensors_open(path, &err);
    if (!st || ks_model_detect(st, &config, &err) != 0)
        fail_msg("%s", err.text);
    o.ops = open_test_device(threads, &err);
    if (!o.ops)
        fail_msg("%s", err.text);
    o.model = ks_model_load(st, &config, o.ops, NULL, parts, tokenizer, &err);
    if (!o.model)
        fail_msg("%s", err.text);
    ks_safetensors_close(st);
    return o;
}

static inline void close_model(open_model *o)
{
    ks_model_free(o->model);
    if (o->ops)
        o->ops->free(o->ops);
    *o = (open_model){0};
}

#endif
