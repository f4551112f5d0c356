#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "cli/command.h"

/* OUT's name with .png in place of .h5. */
static char *default_png(const char *output)
{
    size_t n = strlen(output);
    if (n > 3 && !strcmp(output + n - 3, ".h5"))
        n -= 3;
    char *png = malloc(n + sizeof ".png");
    if (!png)
        exit(complain("out of memory"));
    memcpy(png, output, n);
    strcpy(png + n, ".png");
    return png;
}

int command_sheet(const command *self, int argc, char **argv)
{
    enum { CELL = 1000 };
    static const struct option names[] = {{"output", required_argument, NULL, 'o'}, {"cell", required_argument, NULL, CELL},
                                          {"help", no_argument, NULL, 'h'}, {0}};
    const char *x = NULL, *y = NULL, *png = NULL;
    int cell = 0;
    for (int c; (c = next_option(self, argc, argv, ":o:x:y:h", names)) != -1;) {
        if (c == 'x')
            x = optarg;
        else if (c == 'y')
            y = optarg;
        else if (c == 'o')
            png = optarg;
        else
            cell = (int)whole_number("--cell", optarg, 16, 4096);
    }
    const char *output = only_argument(self, argc, argv, "output file");
    char *made = png ? NULL : default_png(output);
    ks_error err = KS_ERROR_NONE;
    int rc = ks_sheet(output, x, y, png ? png : made, cell, &err);
    if (rc)
        complain("%s", err.text);
    else
        puts(png ? png : made);
    free(made);
    return rc ? KS_EXIT_BAD_INPUT : KS_EXIT_DONE;
}
