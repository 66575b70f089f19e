# ESP-IDF component: put this folder into components/.
idf_component_register(SRCS "src/@NAME@.c" INCLUDE_DIRS "src")
target_compile_options(${COMPONENT_LIB} PRIVATE -O2)
