#include "store/mask_file.h"

#include <png.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/stat.h>

#include "base/file.h"
#include "base/values.h"
#include "model/safetensors.h"
#include "store/h5.h"
#include "store/png.h"

enum { MOST = 1 << 28 }; /* values of a mask */

/* Sizes as [N, H, W]; refuses what is no mask. */
static int set_shape(const char *path, const char *name, int rank, const int64_t *size,
                     int shape[3], ks_error *err)
{
    int64_t total = 1, flat[3] = {1, 1, 1};
    bool one_channel = rank != 4 || size[1] == 1;
    if (rank < 2 || rank > 4 || !one_channel)
        return ks_error_set(err,
                            "%s: %s has %d axes%s: a mask is [H, W], [N, H, W] or "
                            "[N, 1, H, W]",
                            path, name, rank, one_channel ? "" : " and channels");
    flat[1] = size[rank - 2];
    flat[2] = size[rank - 1];
    flat[0] = rank > 2 ? size[0] : 1;
    for (int i = 0; i < 3; i++) {
        if (flat[i] < 1 || flat[i] > MOST || (total *= flat[i]) > MOST)
            return ks_error_set(err, "%s: %s has a size that no mask has (%lld)", path, name,
                                (long long)flat[i]);
        shape[i] = (int)flat[i];
    }
    return 0;
}

static size_t elements(const int shape[3])
{
    return (size_t)shape[0] * (size_t)shape[1] * (size_t)shape[2];
}

static float *new_values(const char *path, const int shape[3], ks_error *err)
{
    float *values = malloc(elements(shape) * sizeof *values);
    if (!values)
        ks_error_set(err, "%s: no memory for masks of %d x %d x %d", path, shape[0], shape[1], shape[2]);
    return values;
}

static int need_name(const char *path, const char *name, ks_error *err)
{
    if (name)
        return 0;
    return ks_error_set(err, "%s: a mask of this file needs its \"tensor\" named", path);
}

/* What is neither PNG nor HDF5 must begin as a safetensors file does: with a length, and the header's brace. */
static ks_safetensors *open_safetensors(const char *path, ks_error *err)
{
    ks_map map;
    if (ks_map_open(path, &map, err))
        return NULL;
    if (map.size > 8 && map.data[8] == '{')
        return ks_safetensors_of_map(path, map, err);
    ks_error_set(err, "%s: neither PNG, safetensors nor HDF5%s", path, ks_safetensors_stranger(map.data, map.size));
    ks_map_close(&map);
    return NULL;
}

static int read_safetensors(const char *path, const char *name, float **values, int shape[3],
                            ks_error *err)
{
    ks_view view;
    int status = -1;
    ks_safetensors *st = open_safetensors(path, err);
    if (!st)
        return -1;
    if (need_name(path, name, err) || ks_safetensors_get(st, name, &view, err) ||
        set_shape(path, name, view.rank, view.shape, shape, err))
        goto cleanup;
    if (!(*values = new_values(path, shape, err)))
        goto cleanup;
    status = ks_view_floats(&view, *values, err);
    if (status)
        ks_error_wrap(err, "%s: %s", path, name);
cleanup:
    ks_safetensors_close(st);
    return status;
}

static int read_hdf5(const char *path, const char *name, float **values, int shape[3],
                     ks_error *err)
{
    int status = -1;
    hsize_t held[H5S_MAX_RANK] = {0};
    int64_t size[H5S_MAX_RANK] = {0};
    hid_t set = -1, space = -1, file = ks_h5_open(path, NULL, err);
    if (file < 0)
        return -1;
    if (need_name(path, name, err) ||
        (set = ks_h5_open_set(file, path, name, err)) < 0 ||
        KS_H5(space = H5Dget_space(set), err, "%s: /%s", path, name))
        goto cleanup;
    int rank = H5Sget_simple_extent_dims(space, held, NULL);
    for (int i = 0; i < rank; i++)
        size[i] = held[i] > INT64_MAX ? INT64_MAX : (int64_t)held[i];
    if (set_shape(path, name, rank, size, shape, err))
        goto cleanup;
    if (ks_h5_check_claim(set, path, name, elements(shape), err) || !(*values = new_values(path, shape, err)))
        goto cleanup;
    status = ks_h5_read_items(set, path, H5T_NATIVE_FLOAT, 0, (uint64_t)size[0], *values,
                              elements(shape) / (size_t)size[0] * sizeof **values, err);
cleanup:
    ks_h5_close(&space);
    ks_h5_close(&set);
    H5Fclose(file);
    return status;
}

/* --- PNG --- */

enum { RED, GREEN, BLUE, ALPHA, CHANNELS };

static int channel_of(const char *path, const char *name, ks_error *err)
{
    static const char *const names[CHANNELS] = {"red", "green", "blue", "alpha"};
    for (int i = 0; i < CHANNELS; i++)
        if (!name || strcmp(name, names[i]) == 0)
            return i;
    return ks_error_set(err,
                        "%s: a PNG has no channel \"%.40s\"; give \"red\", \"green\", \"blue\" "
                        "or \"alpha\"",
                        path, name);
}

/* A PNG that is being read: every failure of the library comes back to try_png. */
typedef struct reading {
    const char *path;
    int channel;
    FILE *f;
    png_structp png;
    png_infop info;
    uint8_t *rgba; /* [height, width, 4] */
    png_bytepp line;
    char why[128];
} reading;

static void on_error(png_structp png, png_const_charp text)
{
    reading *r = png_get_error_ptr(png);
    snprintf(r->why, sizeof r->why, "%s", text);
    png_longjmp(png, 1);
}

static void on_warning(png_structp png, png_const_charp text)
{
    (void)png, (void)text;
}

/* A picture has a bit a pixel or more, and deflate makes at most 1032 bytes of one: a file that claims more is refused before
 * memory is taken for it. */
static int check_claim(const reading *r, const int shape[3], ks_error *err)
{
    struct stat file;
    if (fstat(fileno(r->f), &file) == 0 && elements(shape) / (8 * 1032) <= (size_t)file.st_size)
        return 0;
    return ks_error_set(err, "%s: claims %d x %d pixels, which so small a file cannot hold", r->path, shape[2], shape[1]);
}

/* A picture without transparency would give a mask that is 0 everywhere. */
static int check_channel(const reading *r, ks_error *err)
{
    bool has_alpha = png_get_color_type(r->png, r->info) & PNG_COLOR_MASK_ALPHA || png_get_valid(r->png, r->info, PNG_INFO_tRNS);
    if (r->channel != ALPHA || has_alpha)
        return 0;
    return ks_error_set(err, "%s: the PNG has no transparency, and so no channel \"alpha\"; save it with its transparency, or give "
                        "\"red\", \"green\" or \"blue\"", r->path);
}

/* Whatever the file holds becomes RGBA bytes, values as they are stored. Leaves by longjmp when the
 * library fails. */
static int read_rgba(reading *r, int shape[3], ks_error *err)
{
    png_init_io(r->png, r->f);
    png_read_info(r->png, r->info);
    const int64_t size[2] = {png_get_image_height(r->png, r->info),
                             png_get_image_width(r->png, r->info)};
    if (set_shape(r->path, "the picture", 2, size, shape, err) || check_claim(r, shape, err) || check_channel(r, err))
        return -1;
    png_set_expand(r->png);
    png_set_scale_16(r->png);
    png_set_gray_to_rgb(r->png);
    png_set_add_alpha(r->png, 255, PNG_FILLER_AFTER);
    png_set_interlace_handling(r->png);
    png_read_update_info(r->png, r->info);
    if (!(r->rgba = calloc(elements(shape), CHANNELS)))
        return ks_error_set(err, "%s: no memory for %d x %d pixels", r->path, shape[2], shape[1]);
    r->line = ks_calloc((size_t)shape[1], sizeof *r->line);
    for (int y = 0; y < shape[1]; y++)
        r->line[y] = r->rgba + (size_t)y * (size_t)shape[2] * CHANNELS;
    png_read_image(r->png, r->line);
    return 0;
}

static int try_png(reading *r, int shape[3], ks_error *err)
{
    if (setjmp(png_jmpbuf(r->png)))
        return ks_error_set(err, "%s: cannot read the PNG file: %s", r->path, r->why);
    return read_rgba(r, shape, err);
}

static int read_png(const char *path, const char *name, float **values, int shape[3], ks_error *err)
{
    reading r = {.path = path, .channel = channel_of(path, name, err)};
    int status = -1;
    if (r.channel < 0)
        return -1;
    r.f = fopen(path, "rb");
    r.png = png_create_read_struct(PNG_LIBPNG_VER_STRING, &r, on_error, on_warning);
    r.info = r.png ? png_create_info_struct(r.png) : NULL;
    if (r.f && r.info)
        status = try_png(&r, shape, err);
    else
        ks_error_set(err, "%s: cannot be read", path);
    if (status == 0 && !(*values = new_values(path, shape, err)))
        status = -1;
    if (status == 0) {
        for (size_t i = 0; i < elements(shape); i++) {
            int byte = r.rgba[i * CHANNELS + (size_t)r.channel];
            (*values)[i] = (float)(r.channel == ALPHA ? 255 - byte : byte) / 255.0F;
        }
    }
    png_destroy_read_struct(&r.png, &r.info, NULL);
    free(r.rgba);
    free(r.line);
    if (r.f)
        fclose(r.f);
    return status;
}

/* --- all of them --- */

static int read_any(const char *path, const char *name, float **values, int shape[3], ks_error *err)
{
    if (ks_png_is(path))
        return read_png(path, name, values, shape, err);
    if (ks_h5_is(path))
        return read_hdf5(path, name, values, shape, err);
    return read_safetensors(path, name, values, shape, err);
}

int ks_mask_read(const char *path, const char *name, float **values, int shape[3], ks_error *err)
{
    *values = NULL;
    int status = read_any(path, name, values, shape, err);
    if (status == 0 && ks_values_check(*values, elements(shape), 0, 1, "finite numbers from 0 to 1", err))
        status = ks_error_wrap(err, "%s%s%s", path, name ? ": " : "", name ? name : "");
    if (status) {
        free(*values);
        *values = NULL;
    }
    return status;
}
