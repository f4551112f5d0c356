/* libFuzzer target: any bytes as a latent and as a mask, in safetensors, PNG or HDF5, whichever they are. The first byte
 * chooses the item of a latent's batch. (HDF5's own reading of hostile bytes is not this project's to mend: fuzz_hdf5 makes
 * whole HDF5 files of any content instead.) */
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

#include "scratch.h"
#include "store/latent_file.h"
#include "store/mask_file.h"

static void read_latent(const char *path, int64_t index)
{
    float *values;
    int shape[4];
    ks_error err = KS_ERROR_NONE;
    if (ks_latent_read(path, NULL, index, &values, shape, &err)) {
        if (!err.text[0] || values)
            abort();
        return;
    }
    size_t count = (size_t)shape[0] * (size_t)shape[1] * (size_t)shape[2] * (size_t)shape[3];
    volatile float last = values[count - 1];
    (void)last;
    free(values);
}

static void read_mask(const char *path, const char *name)
{
    float *values;
    int shape[3];
    ks_error err = KS_ERROR_NONE;
    if (ks_mask_read(path, name, &values, shape, &err) && !err.text[0])
        abort();
    free(values);
}

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size)
{
    static const char hdf5[] = "\x89HDF";
    char path[64];
    if (size < 1 || (size > 4 && memcmp(data + 1, hdf5, 4) == 0))
        return 0;
    int fd = fuzz_file(data + 1, size - 1, path);
    read_latent(path, (int64_t)data[0] - 1);
    read_mask(path, "mask");
    read_mask(path, NULL);
    close(fd);
    return 0;
}
