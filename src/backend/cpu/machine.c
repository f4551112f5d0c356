/* What the machine is, and the memory that it has left. */
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/utsname.h>

#include "backend/cpu/cpu.h"

/* The text behind ": " of the first line of `path` that starts with key; false without one. */
static bool read_field(const char *path, const char *key, char *text, size_t size)
{
    FILE *f = fopen(path, "r");
    if (!f)
        return false;
    char line[512];
    bool found = false;
    while (!found && fgets(line, sizeof line, f)) {
        const char *colon = strchr(line, ':');
        if (strncmp(line, key, strlen(key)) != 0 || !colon)
            continue;
        colon += 1 + strspn(colon + 1, " \t");
        snprintf(text, size, "%.*s", (int)strcspn(colon, "\n"), colon);
        found = true;
    }
    fclose(f);
    return found;
}

/* "AMD EPYC 9654 96-Core Processor", or the architecture where the kernel gives no name. */
void ks_cpu_describe(char *text, size_t size)
{
    struct utsname system;
    if (read_field("/proc/cpuinfo", "model name", text, size))
        return;
    snprintf(text, size, "%s CPU", uname(&system) == 0 ? system.machine : "unknown");
}

/* The number in a file of one number; SIZE_MAX where there is none ("max"). */
static size_t read_number(const char *path)
{
    unsigned long long value;
    FILE *f = fopen(path, "r");
    if (!f)
        return SIZE_MAX;
    int got = fscanf(f, "%llu", &value);
    fclose(f);
    return got == 1 ? (size_t)value : SIZE_MAX;
}

/* What a control group leaves of its limit. */
static size_t group_free(const char *folder, const char *limit_file, const char *usage_file)
{
    char path[1024];
    snprintf(path, sizeof path, "%s/%s", folder, limit_file);
    size_t limit = read_number(path);
    snprintf(path, sizeof path, "%s/%s", folder, usage_file);
    size_t usage = read_number(path);
    if (limit == SIZE_MAX || usage == SIZE_MAX)
        return SIZE_MAX;
    return usage < limit ? limit - usage : 0;
}

static size_t least(size_t a, size_t b)
{
    return a < b ? a : b;
}

/* Over the process's control group and those above it (version 2), or the memory controller's
 * (version 1). */
static size_t groups_free(void)
{
    size_t left =
        group_free("/sys/fs/cgroup/memory", "memory.limit_in_bytes", "memory.usage_in_bytes");
    char line[512], folder[768];
    if (!read_field("/proc/self/cgroup", "0:", line, sizeof line))
        return left;
    const char *name = line + strcspn(line, "/");
    snprintf(folder, sizeof folder, "/sys/fs/cgroup%s", name);
    const size_t root = strlen("/sys/fs/cgroup");
    while (strlen(folder) > root) {
        left = least(left, group_free(folder, "memory.max", "memory.current"));
        *strrchr(folder, '/') = '\0';
    }
    return least(left, group_free(folder, "memory.max", "memory.current"));
}

size_t ks_cpu_memory_free(ks_ops *ops)
{
    (void)ops;
    char text[64];
    if (!read_field("/proc/meminfo", "MemAvailable", text, sizeof text))
        return 0;
    return least((size_t)strtoull(text, NULL, 10) * 1024, groups_free());
}
