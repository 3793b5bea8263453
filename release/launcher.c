/*
 * The front of the one file: unpacks what is behind it, once, and runs that.
 *
 * It is linked statically and brings its own C library for the rest, so it asks nothing of the
 * system but Linux. A folder, once in place, is whole: it is made under another name and renamed.
 * A power cut may leave names without contents, so in another boot it is compared with what is
 * here, once. To have the disk take all of it at the first start (syncfs) took a second of that.
 * Whoever may write into it runs code as this user, so one that another user owns, or may write to
 * or rename, is not used.
 */
#define _GNU_SOURCE
#include <dirent.h>
#include <errno.h>
#include <fcntl.h>
#include <ftw.h>
#include <limits.h>
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/file.h>
#include <sys/stat.h>
#include <sys/statvfs.h>
#include <time.h>
#include <unistd.h>
#include <zlib.h>

/* PAYLOAD (a gzipped ustar archive), NAME (ctk-VERSION-DIGEST), INTERPRETER (a placeholder as long
 * as a path may get, which the program inside has for its dynamic loader) come from the build. */
__asm__(".section .rodata\n.global payload, payload_end\n"
        "payload: .incbin \"" PAYLOAD "\"\npayload_end: .byte 0\n.previous\n");
extern const unsigned char payload[], payload_end[];

#define BLOCK 512
#define PROGRAM "/ctk"
#define LOADER "/lib/ld.so"
#define BOOT "/boot" /* the boot in which the folder was made, or compared */
#define PART ".ctk-"
#define STALE_S 60 /* a folder that nobody holds, and in which nothing has changed for so long */

static char tried[4096];

static int not_here(const char *place, const char *why) {
    size_t used = strlen(tried);
    snprintf(tried + used, sizeof tried - used, "%s%s (%s)", used ? ", " : "", place, why);
    return -1;
}

/* Whether nobody else may change or rename what stands in this folder. */
static int is_safe(const struct stat *folder) {
    return S_ISDIR(folder->st_mode) && (folder->st_uid == 0 || folder->st_uid == geteuid()) &&
           (!(folder->st_mode & (S_IWGRP | S_IWOTH)) || folder->st_mode & S_ISVTX);
}

static int is_own(const char *path) {
    struct stat found;
    return lstat(path, &found) == 0 && S_ISDIR(found.st_mode) && found.st_uid == geteuid() &&
           !(found.st_mode & (S_IWGRP | S_IWOTH));
}

static int removed(const char *path, const struct stat *s, int kind, struct FTW *at) {
    (void)s, (void)kind, (void)at;
    return remove(path);
}

/* Read exactly `size` bytes of the archive; 0 where there are no more. */
static int inflated(z_stream *stream, unsigned char *to, size_t size) {
    stream->next_out = to;
    stream->avail_out = size;
    while (stream->avail_out) {
        int told = inflate(stream, Z_NO_FLUSH);
        if (told == Z_STREAM_END)
            break;
        if (told != Z_OK)
            return 0;
    }
    return stream->avail_out == 0;
}

static int written(int file, const unsigned char *from, size_t size) {
    while (size) {
        ssize_t done = write(file, from, size);
        if (done < 0 && errno != EINTR)
            return 0;
        if (done > 0)
            from += done, size -= done;
    }
    return 1;
}

/* Write where the loader will be over the placeholder, in the program that names it. */
static void name_loader(unsigned char *program, size_t size, const char *home) {
    unsigned char *place = memmem(program, size, INTERPRETER, sizeof INTERPRETER);
    if (place) {
        memset(place, 0, sizeof INTERPRETER);
        snprintf((char *)place, sizeof INTERPRETER, "%s" LOADER, home);
    }
}

static int is_same(const char *path, const unsigned char *content, size_t size) {
    struct stat found;
    int file = open(path, O_RDONLY | O_NOFOLLOW | O_CLOEXEC);
    int same = file >= 0 && fstat(file, &found) == 0 && (size_t)found.st_size == size;
    unsigned char some[1 << 16];
    for (size_t at = 0; same && at < size;) {
        ssize_t done = read(file, some, sizeof some);
        same = done > 0 && !memcmp(some, content + at, done);
        at += done > 0 ? done : 0;
    }
    if (file >= 0)
        close(file);
    return same;
}

static int is_put(const char *path, const unsigned char *content, size_t size, int mode) {
    int file = open(path, O_WRONLY | O_CREAT | O_EXCL | O_CLOEXEC, mode);
    if (file < 0)
        return 0;
    int done = written(file, content, size);
    return !close(file) && done;
}

/* Unpack into the folder `into`, which is, or is to be called, `home`; or `compare` what it has. */
static int unpack(const char *into, const char *home, int compare) {
    z_stream stream = {.next_in = (unsigned char *)payload, .avail_in = payload_end - payload};
    unsigned char head[BLOCK];
    if (inflateInit2(&stream, 16 + MAX_WBITS) != Z_OK)
        return ENOMEM;
    int failed = 0;
    while (!failed && inflated(&stream, head, BLOCK) && head[0]) {
        char name[101], prefix[156], path[2 * PATH_MAX];
        size_t size = strtoul((char *)head + 124, NULL, 8);
        snprintf(name, sizeof name, "%.100s", (char *)head);
        snprintf(prefix, sizeof prefix, "%.155s", (char *)head + 345);
        snprintf(path, sizeof path, "%s/%s%s%s", into, prefix, *prefix ? "/" : "", name);
        if (head[156] == '5') {
            failed = !compare && mkdir(path, 0700) ? errno : 0;
            continue;
        }
        size_t padded = (size + BLOCK - 1) / BLOCK * BLOCK;
        unsigned char *content = malloc(padded + 1);
        if (!content || !inflated(&stream, content, padded)) {
            failed = content ? EIO : ENOMEM;
        } else {
            if (!strcmp(name, PROGRAM + 1))
                name_loader(content, size, home);
            int mode = strtoul((char *)head + 100, NULL, 8) & 0755;
            if (compare)
                failed = is_same(path, content, size) ? 0 : EIO;
            else if (!is_put(path, content, size, mode))
                failed = errno;
        }
        free(content);
    }
    inflateEnd(&stream);
    return failed;
}

static size_t content_of(const char *path, char *to, size_t most) {
    int file = open(path, O_RDONLY | O_CLOEXEC);
    ssize_t size = file < 0 ? 0 : read(file, to, most);
    if (file >= 0)
        close(file);
    return size > 0 ? size : 0;
}

/* Whether the folder was made or compared in this boot; with `note` it is from now on. */
static int is_of_this_boot(const char *home, int note) {
    char path[PATH_MAX + sizeof BOOT], now[64], then[64];
    size_t size = content_of("/proc/sys/kernel/random/boot_id", now, sizeof now);
    snprintf(path, sizeof path, "%s" BOOT, home);
    if (note) {
        unlink(path);
        return is_put(path, (unsigned char *)now, size, 0644);
    }
    return size && content_of(path, then, sizeof then) == size && !memcmp(now, then, size);
}

/* Make a folder in `place`, and hold it while it is filled. */
static int made_in(const char *place, char *made) {
    snprintf(made, PATH_MAX, "%s/" PART "XXXXXX", place);
    if (!mkdtemp(made)) /* 0700 */
        return -1;
    int folder = open(made, O_RDONLY | O_DIRECTORY | O_CLOEXEC);
    if (folder >= 0)
        flock(folder, LOCK_EX);
    return folder;
}

/* Remove what first starts have left that were killed. */
static void tidy(const char *place) {
    struct dirent *each;
    struct stat found;
    DIR *all = opendir(place);
    while (all && (each = readdir(all))) {
        char path[PATH_MAX];
        if (strncmp(each->d_name, PART, sizeof PART - 1) ||
            snprintf(path, sizeof path, "%s/%s", place, each->d_name) >= (int)sizeof path)
            continue;
        int folder = open(path, O_RDONLY | O_DIRECTORY | O_NOFOLLOW | O_CLOEXEC);
        if (folder < 0)
            continue;
        if (fstat(folder, &found) == 0 && found.st_uid == geteuid() &&
            found.st_mtime < time(NULL) - STALE_S && flock(folder, LOCK_EX | LOCK_NB) == 0)
            nftw(path, removed, 8, FTW_DEPTH | FTW_PHYS);
        close(folder);
    }
    if (all)
        closedir(all);
}

/* Whether the folder is there, whole; one that a power cut has damaged is put out of the way. */
static int is_there(const char *place, const char *home) {
    char away[PATH_MAX];
    if (!is_own(home))
        return 0;
    if (is_of_this_boot(home, 0))
        return 1;
    if (!unpack(home, home, 1)) {
        is_of_this_boot(home, 1);
        return 1;
    }
    int folder = made_in(place, away);
    if (folder >= 0) {
        rename(home, away);
        nftw(away, removed, 8, FTW_DEPTH | FTW_PHYS);
        close(folder);
    }
    return 0;
}

/* Have the folder below `place`; its path goes to `home`. Not 0 where it cannot be there. */
static int have(const char *place, char *home) {
    struct stat above;
    struct statvfs mount;
    char made[PATH_MAX];
    if (snprintf(home, PATH_MAX, "%s/" NAME "-%u", place, geteuid()) + sizeof LOADER >
        sizeof INTERPRETER)
        return not_here(place, "too long a path");
    if (stat(place, &above) || statvfs(place, &mount))
        return not_here(place, strerror(errno));
    if (mount.f_flag & ST_NOEXEC)
        return not_here(place, "mounted noexec");
    if (!S_ISDIR(above.st_mode))
        return not_here(place, "not a folder");
    if (!is_safe(&above))
        return not_here(place, "others may write there");
    if (is_there(place, home))
        return 0;
    if (access(home, F_OK) == 0)
        return not_here(home, "not this user's alone, or damaged");
    tidy(place);
    int folder = made_in(place, made);
    if (folder < 0)
        return not_here(place, strerror(errno));
    int failed = unpack(made, home, 0);
    if (!failed && !is_of_this_boot(made, 1))
        failed = errno;
    if (!failed && rename(made, home) && errno != EEXIST && errno != ENOTEMPTY)
        failed = errno;
    /* Where another process was first, what it made is as good. */
    nftw(made, removed, 8, FTW_DEPTH | FTW_PHYS);
    close(folder);
    if (failed)
        return not_here(place, strerror(failed));
    return is_own(home) ? 0 : not_here(home, "not this user's alone");
}

/* Find a place that will do: the one that was asked for, or the first of the usual ones. */
static int find(char *home) {
    const char *asked = getenv("CTK_UNPACK"), *cache = getenv("XDG_CACHE_HOME");
    const char *user = getenv("HOME"), *temporary = getenv("TMPDIR");
    char users[PATH_MAX] = "", whole[PATH_MAX];
    if (asked && *asked) /* relative to here: what runs from it may go elsewhere */
        return realpath(asked, whole) ? have(whole, home) : not_here(asked, strerror(errno));
    if (user && *user == '/') {
        snprintf(users, sizeof users, "%s/.cache", user);
        mkdir(users, 0700);
    }
    const char *places[] = {cache,  users,      "/var/cache", temporary,
                            "/tmp", "/var/tmp", "/run",       "/dev/shm"};
    for (size_t n = 0; n < sizeof places / sizeof *places; n++)
        if (places[n] && *places[n] == '/' && have(places[n], home) == 0)
            return 0;
    return -1;
}

int main(int argc, char **argv) {
    (void)argc;
    char home[PATH_MAX], program[PATH_MAX + sizeof PROGRAM];
    if (find(home)) {
        fprintf(stderr,
                "Error: ctk can be unpacked nowhere: %s\n"
                "Try: CTK_UNPACK=DIR, a folder of yours with " SIZE " of room, not mounted noexec\n",
                tried);
        return 1;
    }
    /* Held while ctk runs: what tidies temporary folders up leaves a locked one alone. */
    int folder = open(home, O_RDONLY | O_DIRECTORY);
    if (folder >= 0)
        flock(folder, LOCK_SH);
    /* SQLite's large sorts and a kubeconfig's certificates go through temporary files. */
    if (!getenv("TMPDIR") && access("/tmp", W_OK | X_OK) && access("/var/tmp", W_OK | X_OK)) {
        char place[PATH_MAX];
        snprintf(place, sizeof place, "%s", home);
        *strrchr(place, '/') = 0;
        setenv("TMPDIR", *place ? place : "/", 1);
    }
    snprintf(program, sizeof program, "%s" PROGRAM, home);
    execv(program, argv);
    fprintf(stderr, "Error: %s: %s\nTry: remove %s, which is damaged\n", program, strerror(errno),
            home);
    return 1;
}
