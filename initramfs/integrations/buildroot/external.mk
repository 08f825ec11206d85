include $(sort $(wildcard $(BR2_EXTERNAL_MEGAMOD_PATH)/package/*/*.mk))
