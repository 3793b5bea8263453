/*
 * `ctk` as the one file unpacks it: CPython with what lies beside it, and with nothing of the
 * system's Python or of PYTHON... variables, which are meant for another.
 */
#include <Python.h>
#include <limits.h>
#include <stdio.h>
#include <string.h>
#include <unistd.h>

static PyStatus with_paths(PyConfig *config, const char *home) {
    static const char *const folders[] = {"lib/python.zip", "lib/dynload", "lib/site"};
    PyStatus status = PyConfig_SetBytesString(config, &config->home, home);
    config->module_search_paths_set = 1;
    for (size_t n = 0; !PyStatus_Exception(status) && n < sizeof folders / sizeof *folders; n++) {
        char path[PATH_MAX + 32];
        snprintf(path, sizeof path, "%s/%s", home, folders[n]);
        wchar_t *decoded = Py_DecodeLocale(path, NULL);
        if (!decoded)
            return PyStatus_NoMemory();
        status = PyWideStringList_Append(&config->module_search_paths, decoded);
        PyMem_RawFree(decoded);
    }
    return status;
}

int main(int argc, char **argv) {
    char home[PATH_MAX];
    ssize_t length = readlink("/proc/self/exe", home, sizeof home - 1);
    if (length < 0) {
        perror("Error: /proc/self/exe");
        return 1;
    }
    home[length] = 0;
    *strrchr(home, '/') = 0;

    PyPreConfig before;
    PyPreConfig_InitIsolatedConfig(&before);
    before.utf8_mode = 1; /* a node has no locale, and names and arrows are UTF-8 */
    PyStatus status = Py_PreInitialize(&before);
    if (PyStatus_Exception(status))
        Py_ExitStatusException(status);

    PyConfig config;
    PyConfig_InitIsolatedConfig(&config);
    config.install_signal_handlers = 1; /* Ctrl-C, and a reader that goes away */
    config.parse_argv = 0;
    config.site_import = 0;
    config.write_bytecode = 0;
    status = with_paths(&config, home);
    if (!PyStatus_Exception(status))
        status = PyConfig_SetBytesArgv(&config, argc, argv);
    if (!PyStatus_Exception(status))
        status = PyConfig_SetString(&config, &config.run_module, L"ctk");
    if (!PyStatus_Exception(status))
        status = Py_InitializeFromConfig(&config);
    PyConfig_Clear(&config);
    if (PyStatus_Exception(status))
        Py_ExitStatusException(status);
    return Py_RunMain();
}
