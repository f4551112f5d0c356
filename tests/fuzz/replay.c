/* In libFuzzer's place, for compilers without it: calls the target with the files, and the files of the folders, that are
 * named on the command line. Options (-max_total_time=5) are passed over. */
#include <dirent.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/stat.h>

#include "base/file.h"
#include "scratch.h"

static int replayed;

static void replay_file(const char *path)
{
    size_t size;
    ks_error err = KS_ERROR_NONE;
    char *data = ks_read_file(path, (size_t)1 << 30, &size, &err);
    if (!data) {
        fprintf(stderr, "%s\n", err.text);
        exit(1);
    }
    uint8_t *exact = malloc(size ? size : 1); /* so that a read behind the end is seen */
    if (!exact)
        exit(1);
    memcpy(exact, data, size);
    free(data);
    LLVMFuzzerTestOneInput(exact, size);
    free(exact);
    replayed++;
}

static void replay(const char *path)
{
    struct stat status;
    if (stat(path, &status) || !S_ISDIR(status.st_mode)) {
        replay_file(path);
        return;
    }
    struct dirent **names = NULL;
    int count = scandir(path, &names, NULL, alphasort);
    for (int i = 0; i < count; i++) {
        char *inner = ks_format("%s/%s", path, names[i]->d_name);
        if (names[i]->d_name[0] != '.')
            replay_file(inner);
        free(inner);
        free(names[i]);
    }
    free(names);
}

int main(int argc, char **argv)
{
    for (int i = 1; i < argc; i++)
        if (argv[i][0] != '-')
            replay(argv[i]);
    printf("%d inputs replayed\n", replayed);
    return replayed ? 0 : 1;
}
