/* libFuzzer target: whole HDF5 files whose content is hostile. The input says what stands in them: sizes, types, layouts,
 * texts and rows that do not belong together, whatever the API of HDF5 can write. Odd first byte: a file that a job names as
 * a latent or a mask; even: an output or a shard, which is then looked at as status, resume, verify, show and sheet do.
 *
 * Bytes that are no HDF5 any more are left out on purpose: they are HDF5's own to read, and its releases differ in what
 * they survive. */
#include <hdf5.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/stat.h>
#include <unistd.h>

#include "base/file.h"
#include "base/log.h"
#include "ksweep/ksweep.h"
#include "scratch.h"
#include "store/h5.h"
#include "store/info.h"
#include "store/latent_file.h"
#include "store/mask_file.h"
#include "store/store.h"
#include "store/table.h"

enum { MOST_ROWS = 6, MOST_BYTES = 1 << 13 };

static char folder[] = "/tmp/ksweep-fuzz-XXXXXX";
static char out[sizeof folder + 32], shards[sizeof folder + 32], shard[sizeof folder + 64], png[sizeof folder + 32];

static void clean_up(void)
{
    unlink(out);
    unlink(shard);
    unlink(png);
    rmdir(shards);
    rmdir(folder);
}

static void prepare(void)
{
    if (!mkdtemp(folder))
        abort();
    snprintf(out, sizeof out, "%s/out.h5", folder);
    snprintf(shards, sizeof shards, "%s/out.h5.d", folder);
    snprintf(shard, sizeof shard, "%s/shard-0000.h5", shards);
    snprintf(png, sizeof png, "%s/out.png", folder);
    if (mkdir(shards, 0777))
        abort();
    ks_log_set_level(KS_LOG_NONE);
    ks_h5_start();
    atexit(clean_up);
}

/* --- data sets of any kind --- */

typedef struct shape {
    int rank;
    hsize_t size[H5S_MAX_RANK];
} shape;

/* Leaves most shapes as they are; else another rank, or a size that is much too large. */
static shape bend(fuzz_input *in, shape s)
{
    if (fuzz_flag(in)) {
        s.rank = fuzz_byte(in) % 10;
        for (int i = 0; i < s.rank; i++)
            s.size[i] = fuzz_byte(in) % 9;
    }
    if (fuzz_flag(in) && s.rank)
        s.size[fuzz_byte(in) % s.rank] = fuzz_u64(in) >> fuzz_byte(in) % 64;
    return s;
}

static hid_t bend_type(fuzz_input *in, hid_t usual)
{
    const hid_t types[] = {H5T_IEEE_F64BE, H5T_STD_I8LE, H5T_STD_U64BE, H5T_C_S1, H5T_IEEE_F32BE, H5T_NATIVE_LDOUBLE};
    if (!fuzz_flag(in))
        return H5Tcopy(usual);
    unsigned which = fuzz_byte(in) % 8;
    if (which == 6) {
        hid_t text = H5Tcopy(H5T_C_S1);
        H5Tset_size(text, H5T_VARIABLE);
        return text;
    }
    return which == 7 ? ks_h5_float_type(true) : H5Tcopy(types[which]);
}

/* How the data lie: as usual, in chunks with a filter, in another file, or put together from other files. */
static hid_t bend_layout(fuzz_input *in, const shape *s, hid_t space)
{
    hid_t list = H5Pcreate(H5P_DATASET_CREATE);
    hsize_t chunk[H5S_MAX_RANK];
    unsigned which = fuzz_flag(in) ? fuzz_byte(in) % 4 : 4;
    for (int i = 0; i < s->rank; i++)
        chunk[i] = 1 + fuzz_byte(in) % 4;
    if (which == 0 && s->rank) {
        H5Pset_chunk(list, s->rank, chunk);
        H5Pset_deflate(list, 1);
    } else if (which == 1) {
        H5Pset_external(list, "/etc/hostname", 0, H5F_UNLIMITED);
    } else if (which == 2) {
        const char *const sources[] = {"/etc/hostname", "../out.h5", "out.h5", "out.h5.d/shard-0000.h5"};
        H5Pset_virtual(list, space, sources[fuzz_byte(in) % 4], "latents", space);
    } else if (which == 3 && s->rank) {
        H5Pset_chunk(list, s->rank, chunk);
    }
    return list;
}

/* Whether what is written into a data set goes into its own file. */
static bool is_own(hid_t set)
{
    hid_t list = set < 0 ? -1 : H5Dget_create_plist(set);
    bool own = list >= 0 && H5Pget_layout(list) != H5D_VIRTUAL && H5Pget_external_count(list) == 0;
    ks_h5_close(&list);
    return own;
}

/* Writes bytes of the input where the data set is its own and small enough to hold them. */
static void fill(fuzz_input *in, hid_t set, hid_t type, hid_t space)
{
    hssize_t n = H5Sget_simple_extent_npoints(space);
    size_t size = H5Tget_size(type);
    if (!is_own(set) || n < 1 || H5Tis_variable_str(type) > 0 || (size_t)n > MOST_BYTES / size)
        return;
    void *data = ks_calloc((size_t)n, size);
    fuzz_bytes(in, data, (size_t)n * size);
    H5Dwrite(set, type, H5S_ALL, H5S_ALL, H5P_DEFAULT, data);
    free(data);
}

/* A data set that may not be as its name promises; rows: what is written into it, else bytes of the input. */
static void put_set(fuzz_input *in, hid_t file, const char *name, hid_t usual, shape s, const void *rows)
{
    shape bent = bend(in, s);
    hid_t space = H5Screate_simple(bent.rank, bent.size, NULL), type = bend_type(in, usual);
    hid_t list = bend_layout(in, &bent, space);
    hid_t set = H5Dcreate2(file, name, type, space, H5P_DEFAULT, list, H5P_DEFAULT);
    bool as_meant = bent.rank == s.rank && !memcmp(bent.size, s.size, sizeof s.size) && is_own(set);
    if (rows && as_meant)
        H5Dwrite(set, usual, H5S_ALL, H5S_ALL, H5P_DEFAULT, rows);
    else if (set >= 0)
        fill(in, set, type, space);
    ks_h5_close(&set);
    ks_h5_close(&list);
    ks_h5_close(&type);
    ks_h5_close(&space);
}

static hid_t make_file(const char *path)
{
    hid_t list = ks_h5_file_access(), file;
    H5Pset_libver_bounds(list, H5F_LIBVER_V18, H5F_LIBVER_LATEST);
    file = H5Fcreate(path, H5F_ACC_TRUNC, H5P_DEFAULT, list);
    ks_h5_close(&list);
    if (file < 0)
        abort();
    return file;
}

/* --- an input of a job --- */

static void look_at_input(fuzz_input *in)
{
    shape s = {.rank = 4, .size = {1 + fuzz_byte(in) % 3, 1 + fuzz_byte(in) % 4, 2, 3}};
    hid_t file = make_file(out);
    if (fuzz_flag(in))
        H5Lcreate_external("/etc/hostname", "latents", file, "latents", H5P_DEFAULT, H5P_DEFAULT);
    else
        put_set(in, file, "latents", H5T_IEEE_F32LE, s, NULL);
    H5Fclose(file);
    float *values = NULL;
    int latent[4], mask[3];
    ks_error err = KS_ERROR_NONE;
    if (ks_latent_read(out, "latents", (int64_t)(fuzz_byte(in) % 4) - 1, &values, latent, &err) && !err.text[0])
        abort();
    free(values);
    if (ks_mask_read(out, "latents", &values, mask, &err) && !err.text[0])
        abort();
    free(values);
}

/* --- an output --- */

static char *any_text(fuzz_input *in)
{
    char text[64];
    fuzz_bytes(in, text, sizeof text - 1);
    text[sizeof text - 1] = 0;
    return ks_strdup(text);
}

typedef struct output {
    ks_store_info info;
    char *job, *label;
    uint64_t rows;
    bool checked; /* rows carry a check, as in shards */
} output;

/* Many, or more than there is memory for. Between them lies what is taken for bitmaps and never touched; but the sanitizer
 * fills it. */
static uint64_t any_samples(fuzz_input *in)
{
    uint64_t samples = fuzz_u64(in) >> fuzz_byte(in) % 64;
    return samples >> 26 && !(samples >> 50) ? samples >> 24 : samples;
}

static void describe(fuzz_input *in, output *o)
{
    static const char *const names[] = {"euler", "dpmpp_2m", "normal"};
    int height = 2 + fuzz_byte(in) % 2, width = 2 + fuzz_byte(in) % 2;
    o->rows = fuzz_byte(in) % MOST_ROWS;
    o->checked = fuzz_byte(in) % 2;
    o->label = fuzz_flag(in) ? any_text(in) : ks_strdup("a red circle");
    o->job = fuzz_flag(in) ? any_text(in)
                           : ks_format("{\"ksweep\":1,\"model\":\"m\",\"positive\":\"a red circle\",\"latent_image\":"
                                       "{\"width\":%d,\"height\":%d,\"batch_size\":%d},\"seed\":{\"start\":1,\"count\":%d},"
                                       "\"output\":{\"file\":\"o.h5\"}}", 8 * width, 8 * height, 1 + fuzz_byte(in) % 2,
                                       1 + fuzz_byte(in) % 4);
    o->info = (ks_store_info){
        .samples = fuzz_flag(in) ? any_samples(in) : o->rows, .channels = 1 + fuzz_byte(in) % 4,
        .height = height, .width = width, .float16 = fuzz_byte(in) % 2, .images = fuzz_byte(in) % 2,
        .job = o->job, .job_path = "/nowhere/job.json", .model = "m", .model_sha256 = "0123", .version = "1", .backend = "cpu",
        .device = "a CPU", .precision = o->label, .noise_device = "cpu", .parallel = "{}",
        .batch_rows = fuzz_flag(in) ? (int)fuzz_u32(in) : 8, .samplers = 2, .schedulers = 1, .sampler_names = names,
        .scheduler_names = names + 2, .positives = 1, .negatives = 1, .latents = 1, .positive = &o->label,
        .negative = &o->label, .latent_image = &o->label};
}

static void put_rows(fuzz_input *in, hid_t file, const output *o, const uint8_t *latents, size_t latent)
{
    ks_table_row table[MOST_ROWS];
    for (uint64_t i = 0; i < o->rows; i++) {
        ks_table_row *t = &table[i];
        *t = (ks_table_row){.index = i, .seed = 1 + i, .steps = 20, .cfg = 8, .denoise = 1, .sampler_name = "euler",
                            .scheduler = "normal", .status = KS_DONE, .nfe = 20};
        ks_hash128 digest = ks_hash(latents + i * latent, latent);
        memcpy(t->digest, digest.byte, sizeof t->digest);
        if (fuzz_flag(in))
            fuzz_bytes(in, t, offsetof(ks_table_row, check));
        if (fuzz_flag(in))
            t->batch = fuzz_u32(in);
        t->check = ks_table_check(t);
    }
    shape s = {.rank = 1, .size = {o->rows}};
    hid_t type = ks_table_file_type(o->checked), memory = ks_table_memory_type(o->checked);
    put_set(in, file, "samples", o->checked ? memory : type, s, o->checked ? table : NULL);
    if (!o->checked) { /* in memory a row has room for a check, in this file it has none */
        hid_t set = H5Dopen2(file, "samples", H5P_DEFAULT);
        hid_t space = set < 0 ? -1 : H5Dget_space(set);
        if (is_own(set) && H5Sget_simple_extent_npoints(space) == (hssize_t)o->rows)
            H5Dwrite(set, memory, H5S_ALL, H5S_ALL, H5P_DEFAULT, table);
        ks_h5_close(&space);
        ks_h5_close(&set);
    }
    ks_h5_close(&memory);
    ks_h5_close(&type);
}

static void make_output(fuzz_input *in, const char *path, const output *o)
{
    const ks_store_info *i = &o->info;
    shape latent = {.rank = 4, .size = {o->rows, (hsize_t)i->channels, (hsize_t)i->height, (hsize_t)i->width}};
    shape image = {.rank = 4, .size = {o->rows, (hsize_t)i->height * 8, (hsize_t)i->width * 8, 3}};
    shape index = {.rank = 1, .size = {o->rows}};
    uint64_t rows[MOST_ROWS];
    size_t bytes = ks_info_latent_bytes(i);
    uint8_t *latents = ks_calloc(MOST_ROWS, bytes);
    for (uint64_t k = 0; k < MOST_ROWS; k++)
        rows[k] = fuzz_flag(in) ? fuzz_u64(in) : k;
    fuzz_bytes(in, latents, 16);
    hid_t file = make_file(path), type = ks_h5_float_type(i->float16);
    ks_info_write(file, path, i, 0, NULL);
    put_set(in, file, "latents", type, latent, latents);
    put_rows(in, file, o, latents, bytes);
    put_set(in, file, "row_of_index", H5T_STD_U64LE, index, rows);
    if (i->images)
        put_set(in, file, "images", H5T_STD_U8LE, image, NULL);
    ks_h5_close(&type);
    H5Fclose(file);
    free(latents);
}

static int see_row(void *self, const ks_row *row, int number, uint64_t place, ks_error *err)
{
    (void)row, (void)number, (void)place, (void)err;
    ++*(uint64_t *)self;
    return 0;
}

static void read_rows(ks_output *o)
{
    const ks_store_info *i = ks_output_info(o);
    float *latent = ks_calloc((size_t)i->channels * (size_t)i->height * (size_t)i->width, sizeof *latent);
    uint8_t *rgb = ks_calloc(1, ks_info_image_bytes(i));
    uint64_t checked, bad, r;
    ks_row row;
    for (uint64_t k = 0; k < ks_output_rows(o) && k < MOST_ROWS; k++) {
        ks_output_row(o, k, &row, NULL);
        ks_output_latent(o, k, latent, NULL);
        ks_output_image(o, k, rgb, NULL);
        ks_output_find(o, k, &r, NULL);
    }
    if (ks_output_rows(o) < MOST_BYTES)
        ks_output_verify(o, &checked, &bad, NULL);
    free(rgb);
    free(latent);
}

static void look_at_rows(void)
{
    uint64_t seen = 0;
    ks_scan_counts counts;
    ks_store_scan(out, true, see_row, &seen, &counts, NULL);
    ks_output *o = ks_output_open(out, NULL);
    if (o)
        read_rows(o);
    ks_output_close(o);
}

/* One look at the output, as opening takes most of the time; the sheet seldom, as fonts take more. */
static void look_at_output(fuzz_input *in)
{
    ks_counts counts;
    ks_error err = KS_ERROR_NONE;
    unsigned which = fuzz_byte(in) % 32;
    if (which == 31)
        ks_sheet(out, NULL, NULL, png, 16, &err);
    else if (which % 4 == 0)
        free(ks_status_text(out, false, &counts, &err));
    else if (which % 4 == 1)
        free(ks_show(out, fuzz_byte(in) % 8, &err));
    else
        look_at_rows();
}

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size)
{
    fuzz_input in = {data, size};
    if (!out[0])
        prepare();
    if (fuzz_byte(&in) % 2) {
        look_at_input(&in);
    } else {
        output o;
        describe(&in, &o);
        make_output(&in, o.checked ? shard : out, &o);
        look_at_output(&in);
        free(o.job);
        free(o.label);
    }
    unlink(out);
    unlink(shard);
    H5Eclear2(H5E_DEFAULT);
    return 0;
}
